"""One member that is an adapter of the PEFT library: what the library calls trainable is trained, nothing else.

Axes: as in `population`; N trainable numbers.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.adapters.peft_any import adapter_state, build
from tunewise.errors import ModelError
from tunewise.models.encoder import Batch, Encoder
from tunewise.models.tree import shared_tree
from tunewise.seeding import derive
from tunewise.training.flat import Flat, Group
from tunewise.training.population import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    WORK_ADAPTER,
    HeadStart,
    Key,
    head_logits,
    head_start,
    pooled,
)
from tunewise.training.precision import master_dtype


class PeftPopulation:
    """A population of one, on a module tree of its own; masters in fp32, products in the base's dtype."""

    work_per_token = WORK_ADAPTER

    def __init__(
        self,
        base: Encoder,
        peft_type: str,
        options: Mapping[str, Any],
        head: HeadStart | None = None,
        *,
        seed: int,
        unit_length: bool = False,
    ) -> None:
        """`options` are the library's, complete (see `adapters.peft_any.completed`).

        Raises:
            ModelError: the library refuses this base or these options, or leaves nothing to train.
        """
        self.seed, self.unit_length = seed, unit_length
        self.built = build(shared_tree(base.model), peft_type, options, seed=derive(seed, "peft"))
        self.encoder = copy.copy(base)
        self.encoder.model = self.built
        self._parameters = {name: p for name, p in self.built.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ModelError(f"peft:{peft_type}: with these options it trains nothing on this base.")
        wide = master_dtype(base.dtype)
        start = {name: parameter.detach()[None].to(wide) for name, parameter in self._parameters.items()}
        start.update(head_start(head, 1, base.info.hidden_size, wide, torch.device(base.device)))
        self.flat = Flat(start, group=lambda name, tensor: Group(decays=tensor.dim() > 2))
        self._bind()

    def _bind(self) -> None:
        """Make the library's parameters views of the buffer, or working copies where they are of another dtype."""
        views = self.flat.views(self.flat.values_PN)
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in self._parameters.items():
            master = views[name][0]
            if parameter.dtype == master.dtype:
                # by its data: the same parameter may stand in several modules
                parameter.data = master
            else:
                self._copied.append((parameter, master))
        self._head = {name: views[name].detach().requires_grad_() for name in (HEAD_WEIGHT, HEAD_BIAS) if name in views}
        self._leaves: dict[str, Tensor] = {**self._parameters, **self._head}
        self._fresh = True
        self.refresh()

    @property
    def size(self) -> int:
        return self.flat.size

    def trainable_parameters(self, member: int) -> int:
        """Of the adapter and the head."""
        return self.flat.numbers

    def hidden(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        return self.encoder.forward(batch) if key is None else self._with_dropout(batch, key)

    def logits(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        hidden_STH = self.hidden(batch, active, key)
        vector_RH = pooled(self.encoder, batch, hidden_STH, unit_length=self.unit_length)
        return head_logits(vector_RH[None], self._head[HEAD_WEIGHT], self._head[HEAD_BIAS])

    def _with_dropout(self, batch: Batch, key: Key) -> Tensor:
        """Hidden states with the adapter's own dropout, whose masks come from (seed, step, first sequence)."""
        device = batch.input_ids_ST.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            self.built.training_adapter(),
        ):
            torch.manual_seed(derive(self.seed, "dropout", key.step, int(key.sequence_S[0])))
            return self.encoder.forward(batch)

    def start_step(self) -> None:
        self._fresh = True
        for leaf in self._leaves.values():
            leaf.grad = None  # a backward pass that ran out of memory leaves some behind

    def gather(self) -> None:
        self.flat.collect(self._leaves, fresh=self._fresh)
        self._fresh = False

    @torch.no_grad()
    def refresh(self) -> None:
        for parameter, master in self._copied:
            parameter.copy_(master)

    def release(self) -> None:
        """Drop gradients; the next step makes them anew."""
        self.flat.release()

    def keep(self, indices: Sequence[int]) -> None:
        self.flat.keep(indices)
        self._bind()

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        """The adapter as the library keeps it, which may hold more than was trained, and the head."""
        now_1N = self.flat.values_PN.clone()
        self.flat.values_PN[0] = row_N
        self.refresh()
        try:
            own = self.flat.member(row_N)
            return {**adapter_state(self.built), **{name: own[name] for name in self._head}}
        finally:
            self.flat.values_PN.copy_(now_1N)
            self.refresh()
