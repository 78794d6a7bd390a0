"""A cache of keys and values that grows in place: a token is written behind the others, which stay where they are.

Axes: B rows, K heads, T positions, D numbers of a head.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions that are kept free behind those in use; where they are taken, all are copied once."""


def growing_cache(config: Any = None) -> DynamicCache:
    """The library's cache for a model of this kind; layers that look at a window only are its own."""
    cache = DynamicCache(config=config)
    cache.layers = [_Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]  # type: ignore[no-untyped-call]
    if config is None:
        cache.layer_class_to_replicate = _Layer
    return cache


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values, each at the front of a block that has room for more."""

    _key_block: Tensor | None = None
    _value_block: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values [B, K, T, D], these behind those that were there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        self._key_block = _with(key_states, behind=self.keys, length=length, block=self._key_block)
        self._value_block = _with(value_states, behind=self.values, length=length, block=self._value_block)
        whole = length + key_states.shape[-2]
        self.keys, self.values = self._key_block[:, :, :whole], self._value_block[:, :, :whole]
        return self.keys, self.values


def _with(more: Tensor, *, behind: Any, length: int, block: Tensor | None) -> Tensor:
    """The block with these behind the first ones; a new one where `behind` is not its front, or it has no room."""
    whole = length + more.shape[2]
    if block is None or behind.data_ptr() != block.data_ptr() or whole > block.shape[2]:
        block = more.new_empty(*more.shape[:2], whole + ROOM, more.shape[3])
        if length:
            block[:, :, :length] = behind
    block[:, :, length:whole] = more
    return block
