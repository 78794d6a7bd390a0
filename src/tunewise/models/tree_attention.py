r"""Attention of tokens that branch off a common trunk: each sees the trunk, its own ancestors and itself.

The trunk's keys and values are never copied for those who read them (as in Hydragen, Juravsky et al. 2024,
arXiv 2402.05099): all queries go through one product with them, and the two parts of the softmax are joined by

$o = \frac{e^{a - m} V_p + e^{b - m} V}{\sum e^{a - m} + \sum e^{b - m}}$, $m = \max(a, b)$,

with a the logits over the trunk and b those over the branch.

Axes: B branches, H heads, G heads of keys and values, M = N H / G, N tokens of a branch, P tokens of the trunk, D
numbers of a head.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

NAME = "tunewise_tree"
REFUSED = ("softcap", "s_aux", "position_bias")
"""What some architectures do to the logits, and this does not."""

Kept = Mapping[nn.Module, tuple[Tensor, Tensor]]
"""Keys and values [G, P, D] by attention layer."""


class NotForTrees(Exception):
    """This architecture's attention is not the plain one."""


@dataclass
class Pass:
    """What the attention layers of a forward pass read and leave behind."""

    trunk: Kept | None
    keep: bool = False
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values [B, G, N, D] by attention layer, where they are kept."""
    longest: int = 0
    """Tokens of the longest path, for layers that see only so far."""
    additive: Tensor | None = None
    """The mask as numbers to be added, made once for all layers."""


_now = threading.local()


@contextlib.contextmanager
def during(tree_pass: Pass) -> Iterator[Pass]:
    """Within it, models with this attention read and write `tree_pass`."""
    _now.tree_pass = tree_pass
    try:
        yield tree_pass
    finally:
        del _now.tree_pass


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Output [B, N, H, D] of queries [B, H, N, D] over the pass's trunk and keys [B, G, N, D], masked [B, 1, N, N].

    Raises:
        NotForTrees: the layer wants more than that.
    """
    now: Pass = _now.tree_pass
    window = others.get("sliding_window")
    foreign = [name for name in REFUSED if others.get(name) is not None]
    if foreign or attention_mask is None or (window is not None and window < now.longest):
        raise NotForTrees(f"attention with {foreign[0] if foreign else 'a window or no mask'}")
    if now.keep:
        now.kept[module] = (key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    compute = _fused if query.device.type == "cpu" else _plain
    return compute(module, query, key, value, attention_mask, scale, now), None


def _fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, now: Pass
) -> Tensor:
    """The trunk by PyTorch's kernel for CPUs, which keeps no logits and tells the logarithm of each softmax's sum.

    For branches of few tokens it takes longer than plain products.
    """
    if now.additive is None:
        now.additive = torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    branches, heads, tokens, numbers = query.shape
    shared = heads // key.shape[1]
    keys, values = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    branch = ((query * scale) @ keys.transpose(2, 3)).float().add_(now.additive)
    log = branch.logsumexp(dim=-1, keepdim=True)
    out = branch.sub_(log).exp_().to(values.dtype) @ values
    if now.trunk is not None:
        flat = query.transpose(0, 1).reshape(1, heads, -1, numbers)
        keys, values = (part.repeat_interleave(shared, dim=0)[None] for part in now.trunk[module])
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        over_trunk, log_trunk = kernel(flat, keys, values, scale=scale)
        over_trunk = over_trunk.view(heads, branches, tokens, numbers).transpose(0, 1)
        log_trunk = log_trunk.view(heads, branches, tokens, 1).transpose(0, 1)
        share = torch.sigmoid(log_trunk - log).to(out.dtype)
        out = over_trunk * share + out * (1.0 - share)
    whole: Tensor = out.transpose(1, 2)
    return whole


def _plain(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, now: Pass
) -> Tensor:
    """The same written out."""
    branches, heads, tokens, numbers = query.shape
    groups = key.shape[1]
    query_GBMD = (query * scale).reshape(branches, groups, -1, numbers).transpose(0, 1)
    key_GBND, value_GBND = key.transpose(0, 1), value.transpose(0, 1)
    branch = (query_GBMD @ key_GBND.transpose(2, 3)).float()
    branch = branch.view(groups, branches, -1, tokens, tokens).masked_fill_(~mask, -torch.inf)
    branch = branch.view(groups, branches, -1, tokens)
    if now.trunk is None:
        out = torch.softmax(branch, dim=-1).to(value.dtype) @ value_GBND
    else:
        trunk_key, trunk_value = now.trunk[module]
        flat = query_GBMD.reshape(groups, -1, numbers)
        trunk = (flat @ trunk_key.transpose(1, 2)).float().view(*branch.shape[:-1], -1)
        top = torch.maximum(trunk.amax(-1, keepdim=True), branch.amax(-1, keepdim=True))
        trunk, branch = trunk.sub_(top).exp_(), branch.sub_(top).exp_()
        total = trunk.sum(-1, keepdim=True) + branch.sum(-1, keepdim=True)
        of_trunk = (trunk.view(groups, flat.shape[1], -1).to(value.dtype) @ trunk_value).view(*branch.shape[:-1], -1)
        out = (of_trunk + branch.to(value.dtype) @ value_GBND) / total.to(value.dtype)
    out = out.reshape(groups, branches, heads // groups, tokens, numbers)
    return out.permute(1, 3, 0, 2, 4).reshape(branches, tokens, heads, numbers)


def register() -> None:
    """Make this attention known to transformers, under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
