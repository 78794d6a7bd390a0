"""The blocks below those that are trained: what they make of a sequence is computed once and kept.

Axes: S sequences, T positions, N kept tokens, H hidden.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.adapters.stack import replace_module
from tunewise.errors import ModelError
from tunewise.models.encoder import Batch, Encoder
from tunewise.models.precision import fast_float32
from tunewise.models.seq2seq import EncoderDecoder
from tunewise.models.tokens import Tokens, by_length, pad
from tunewise.models.tree import shared_tree

KEPT_BYTES = 2 * 1024**3
"""Most memory for kept hidden states: 1.4 million tokens of 384 float32 numbers."""
FILL_TOKENS = 4096
"""Padded tokens of a batch while the kept states are computed."""
TRIED_SEQUENCES = 4
SAME, SAME_BF16 = 1e-5, 3e-2
"""Largest relative difference between answers with and without kept states: rounding, which depends on the batch."""


def blocks_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the transformer's blocks, which are called one after the other.

    Raises:
        ModelError: there is no such list.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for path, module in [] if isinstance(model, EncoderDecoder) else model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, module
    raise ModelError(
        f"{type(model).__name__}: its blocks are not one list of {count} modules, so its layers cannot be told apart. "
        "Train without `top_layers` and `layer_decay`."
    )


class LowerBlocks:
    """Stands in for the blocks of a base that are not trained, in any number of module trees of it."""

    def __init__(
        self, base: Encoder, top_layers: int, tokens: Sequence[Tokens] = (), *, most_bytes: int = KEPT_BYTES
    ) -> None:
        """Compute and keep the hidden states below the last `top_layers` blocks for every sequence of `tokens`.

        Other sequences, and all of them where keeping does not work (`note` says why), pass through the blocks.

        Raises:
            ModelError: the base has fewer blocks, or none that can be told apart.
        """
        self.path, blocks = blocks_of(base.model)
        self.blocks, self.depth = len(blocks), len(blocks) - top_layers
        if self.depth < 0:
            raise ModelError(
                f"{base.info.name}: `top_layers` is {top_layers}, but it has {self.blocks} blocks. "
                f"Use {self.blocks} or fewer."
            )
        self._bytes_per_token = base.info.hidden_size * base.dtype.itemsize
        self._most_bytes = most_bytes
        self._start: dict[bytes, int] = {}
        self._kept_NH = torch.empty(0)
        self.hidden_STH: Tensor | None = None
        self.items: int | None = None
        self.note = self._keep(base, tokens) if self.depth and tokens else None

    @property
    def share(self) -> float:
        """Share of the blocks that a token passes through."""
        return (self.blocks - self.depth) / self.blocks if self._start else 1.0

    def bytes_for(self, tokens: int) -> int | None:
        """Memory that keeping so many tokens takes; None where they are too many to be kept, or nothing is below."""
        wanted = tokens * self._bytes_per_token
        return wanted if self.depth and wanted <= self._most_bytes else None

    def attach(self, tree: nn.Module) -> nn.Module:
        """Put this in the place of the lower blocks of `tree`, whose modules and weights are then no more in it."""
        blocks = tree.get_submodule(self.path)
        assert isinstance(blocks, nn.ModuleList)
        for i in range(self.depth):
            blocks[i] = _Below(blocks[i], self)
        tree.register_forward_pre_hook(self._look_up, with_kwargs=True)
        return tree

    def upper(self, tree: nn.Module) -> list[tuple[str, nn.Module]]:
        """Path and module of each block above."""
        blocks = tree.get_submodule(self.path)
        assert isinstance(blocks, nn.ModuleList)
        return [(f"{self.path}.{i}", blocks[i]) for i in range(self.depth, self.blocks)]

    def _look_up(self, tree: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        self.hidden_STH = None
        if self._start:
            types_ST = inputs.get("token_type_ids")
            self.hidden_STH = self._found(inputs["input_ids"], inputs["attention_mask"], types_ST)

    def _found(self, input_ids_ST: Tensor, mask_ST: Tensor, types_ST: Tensor | None) -> Tensor | None:
        """Kept hidden states, zero in the padding; None where a sequence is not among the kept."""
        ids_ST, length_S = input_ids_ST.cpu().numpy(), mask_ST.sum(dim=1).cpu().numpy()
        kinds_ST = None if types_ST is None else types_ST.cpu().numpy()
        place_ST = np.zeros(ids_ST.shape, dtype=np.int64)
        for s, length in enumerate(length_S):
            start = self._start.get(_name(ids_ST[s, :length], None if kinds_ST is None else kinds_ST[s, :length]))
            if start is None:
                return None
            place_ST[s, :length] = np.arange(start, start + length)
        place = torch.from_numpy(place_ST).to(self._kept_NH.device)
        return self._kept_NH.index_select(0, place.flatten()).view(*place.shape, -1)

    def _keep(self, base: Encoder, tokens: Sequence[Tokens]) -> str:
        """Fill the store, and see that answers stay the same; the sentence that says what was done."""
        lower = f"the lower {self.depth} of {self.blocks} blocks"
        total = sum(each.tokens for each in tokens)
        if self.bytes_for(total) is None:
            needed = total * self._bytes_per_token
            return f"{lower} are computed in every step: {_size(needed)} to keep, more than {_size(self._most_bytes)}"
        try:
            self._fill(base, tokens)
            difference = self._difference(base, tokens[0])
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError) as error:
            self._forget()
            return f"{lower} are computed in every step: {type(base.model).__name__} refuses kept states ({error})"
        if not difference < (SAME_BF16 if base.dtype == torch.bfloat16 else SAME):
            self._forget()
            return f"{lower} are computed in every step: with kept states, answers differ by {difference:.1e}"
        return f"{lower} are computed once for {len(self._start)} sequences ({_size(self._kept_NH.nbytes)})"

    def _fill(self, base: Encoder, tokens: Sequence[Tokens]) -> None:
        stopped = copy.copy(base)
        stopped.model = self.attach(shared_tree(base.model))
        ((at, block), *_) = self.upper(stopped.model)
        replace_module(stopped.model, at, _Stop(block))
        start: dict[bytes, int] = {}
        # the first row stands for padding
        kept_NH = torch.zeros(
            1 + sum(each.tokens for each in tokens), base.info.hidden_size, dtype=base.dtype, device=base.device
        )
        end = 1
        for each in tokens:
            names = [_name(ids, None if each.types is None else each.types[s]) for s, ids in enumerate(each.ids)]
            fresh = [s for name, s in {name: s for s, name in enumerate(names)}.items() if name not in start]
            for picks in by_length(each.lengths_S[fresh], FILL_TOKENS):
                chosen = [fresh[i] for i in picks]
                hidden_STH = _hidden(stopped, _batch(base, each, chosen))
                for s, hidden_TH in zip(chosen, hidden_STH, strict=True):
                    length = len(each.ids[s])
                    kept_NH[end : end + length] = hidden_TH[:length]
                    start[names[s]] = end
                    end += length
        self._kept_NH = kept_NH[:end]
        self._start = start

    def _difference(self, base: Encoder, tokens: Tokens) -> float:
        """Between last hidden states with and without kept ones, relative, on sequences of different lengths."""
        order_S = np.argsort(tokens.lengths_S, kind="stable")
        few = np.unique(order_S[np.linspace(0, len(order_S) - 1, TRIED_SEQUENCES).round().astype(int)])
        batch = _batch(base, tokens, few.tolist())
        tried = copy.copy(base)
        tried.model = self.attach(shared_tree(base.model))
        with torch.no_grad(), fast_float32():
            read_ST = batch.attention_mask_ST.bool()
            plain_NH, kept_NH = base.forward(batch)[read_ST].double(), tried.forward(batch)[read_ST].double()
        return float((kept_NH - plain_NH).norm() / plain_NH.norm())

    def _forget(self) -> None:
        self._start, self._kept_NH, self.hidden_STH = {}, torch.empty(0), None


class _Below(nn.Module):
    """In the place of a lower block: the kept states, or what the block computes."""

    def __init__(self, block: nn.Module, lower: LowerBlocks) -> None:
        super().__init__()
        _look_like(self, block)
        # in a tuple, so that the block is no part of the tree
        self.block, self.lower = (block,), lower

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden_STH = self.lower.hidden_STH
        if hidden_STH is None:
            output = self.block[0](*args, **kwargs)
            self.lower.items = len(output) if isinstance(output, tuple) else None
            return output
        return hidden_STH if self.lower.items is None else (hidden_STH, *[None] * (self.lower.items - 1))


class _Reached(Exception):
    def __init__(self, hidden_STH: Tensor) -> None:
        super().__init__()
        self.hidden_STH = hidden_STH


class _Stop(nn.Module):
    """Ends a forward pass with what it is given, so that nothing above is computed."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        _look_like(self, block)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _Reached(args[0] if args else kwargs["hidden_states"])


def _look_like(module: nn.Module, block: nn.Module) -> None:
    """Models ask their blocks for plain attributes, such as the kind of attention."""
    vars(module).update({key: value for key, value in vars(block).items() if key not in vars(module)})


def _hidden(stopped: Encoder, batch: Batch) -> Tensor:
    with torch.no_grad(), fast_float32():
        try:
            stopped.forward(batch)
        except _Reached as reached:
            return reached.hidden_STH
    raise RuntimeError("its blocks are not called")


def _batch(base: Encoder, tokens: Tokens, sequences: list[int]) -> Batch:
    place = np.arange(len(sequences))
    return pad(tokens, sequences, place, rows=len(sequences), pad_id=base.pad_id, device=base.device)


def _name(ids_T: np.ndarray, types_T: np.ndarray | None) -> bytes:
    """What a sequence is known by; sequences of different lengths differ in the length of their names."""
    return ids_T.tobytes() if types_T is None else ids_T.tobytes() + types_T.astype(np.int8).tobytes()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def block_number(name: str, path: str) -> int | None:
    """Which block a parameter of this name lies in, from 0; None where it lies in none."""
    found = re.match(rf"{re.escape(path)}\.(\d+)\.", name)
    return None if found is None else int(found.group(1))
