"""Members that are adapters on one frozen base: all of them go through it in one pass.

Axes: as in `population`; N trainable numbers of one member.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tunewise.adapters.stack import Pass, Stack
from tunewise.models.encoder import Batch, Encoder
from tunewise.models.tree import shared_tree
from tunewise.training.flat import Flat, Group
from tunewise.training.population import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    WORK_ADAPTER,
    HeadStart,
    Key,
    chosen,
    head_logits,
    head_start,
    pooled,
    repeated,
    without_head,
)
from tunewise.training.precision import master_dtype


class StackedPopulation:
    """Stacked members of one kind of adapter; the base is shared, never changed, and computed with in its own dtype."""

    work_per_token = WORK_ADAPTER

    def __init__(
        self,
        base: Encoder,
        make: Callable[[nn.Module], Stack],
        head: HeadStart | None = None,
        *,
        unit_length: bool = False,
    ) -> None:
        """`make` gives the stack for a module tree of the base."""
        self.encoder = copy.copy(base)
        tree = shared_tree(base.model)
        self.unit_length = unit_length
        self.stack = make(tree)
        wide = master_dtype(base.dtype)
        start = self.stack.start(wide)
        start.update(head_start(head, len(self.stack.members), base.info.hidden_size, wide, torch.device(base.device)))
        self.flat = Flat(start, group=self._group)
        self.encoder.model = self.stack.attach(tree)
        self._bind()

    def _group(self, name: str, tensor: Tensor) -> Group:
        if name in (HEAD_WEIGHT, HEAD_BIAS):
            return Group(decays=name == HEAD_WEIGHT)
        return Group(decays=self.stack.decays(name), rate=self.stack.rate(name))

    def _bind(self) -> None:
        self._leaves, self._fresh = self.flat.leaves(), True
        self.stack.bind(without_head(self._leaves))

    @property
    def size(self) -> int:
        return self.flat.size

    def trainable_parameters(self, member: int) -> int:
        return self.flat.numbers - self.stack.padding(self.stack.members[member])

    def hidden(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        sequences, positions = batch.input_ids_ST.shape
        self.stack.now = Pass(active=tuple(active), sequences=sequences, positions=positions)
        self.stack.now.answer_positions = self.encoder.answer_positions
        if batch.answer_ids_SN is not None:
            self.stack.now.answer_positions = batch.answer_ids_SN.shape[1]
        if key is not None:
            self.stack.now.step = key.step
            self.stack.now.sequence_S = torch.as_tensor(key.sequence_S, device=batch.input_ids_ST.device)
        return self.encoder.forward(repeated(batch, len(active)))

    def logits(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        hidden_NTH = self.hidden(batch, active, key)
        vector_NH = pooled(self.encoder, repeated(batch, len(active)), hidden_NTH, unit_length=self.unit_length)
        weight_ALH, bias_AL = (chosen(self._leaves[name], active) for name in (HEAD_WEIGHT, HEAD_BIAS))
        return head_logits(vector_NH.view(len(active), batch.rows, -1), weight_ALH, bias_AL)

    def start_step(self) -> None:
        self._fresh = True
        for leaf in self._leaves.values():
            leaf.grad = None  # a backward pass that ran out of memory leaves some behind

    def gather(self) -> None:
        self.flat.collect(self._leaves, fresh=self._fresh)
        self._fresh = False

    def refresh(self) -> None:
        """Nothing to do: the leaves are views of the values."""

    def release(self) -> None:
        """Nothing to do: an adapter's gradients are small."""

    def keep(self, indices: Sequence[int]) -> None:
        self.flat.keep(indices)
        self.stack.keep(indices)
        self._bind()

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        return self.flat.member(row_N)
