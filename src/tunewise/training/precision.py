"""Which numbers a trained rung computes in: fp32 masters always, bf16 products where the machine is fast at them."""

import copy
from typing import Literal

import torch

from tunewise.models.encoder import Encoder
from tunewise.models.precision import bf16_is_fast
from tunewise.models.tree import shared_tree
from tunewise.models.writing_base import WritingBase


def working_dtype(asked: Literal["auto", "float32", "bfloat16"], base: Encoder) -> torch.dtype:
    """What forward and backward run in. The base's own dtype where it is not fp32 (a test's float64, a bf16 base)."""
    if base.dtype != torch.float32:
        return base.dtype
    if asked == "auto":
        return torch.bfloat16 if bf16_is_fast(base.device.type) else torch.float32
    return torch.bfloat16 if asked == "bfloat16" else torch.float32


def master_dtype(working: torch.dtype) -> torch.dtype:
    """What weights, moments and losses are kept in: fp32, or more where the work itself is done in more."""
    return torch.promote_types(working, torch.float32)


def cast_base(base: Encoder, dtype: torch.dtype) -> Encoder:
    """The base as it is where it already computes in `dtype`, else a frozen copy that does; many members share it."""
    if base.dtype == dtype:
        return base
    cast = copy.copy(base)
    cast.model = shared_tree(base.model, dtype)
    return cast


def cast_writer(base: Encoder, dtype: torch.dtype) -> Encoder:
    """As `cast_base`, with what reads the vocabulary."""
    assert isinstance(base, WritingBase)
    return base if base.dtype == dtype else base.over(shared_tree(base.whole, dtype))
