r"""Attention of tokens that branch off common trunks: each sees its trunks, its own ancestors and itself.

The tokens of a pass stand in one row, without padding. Those that follow on the same trunk stand together, and a
trunk's keys and values are never copied for those who read them (as in Hydragen, Juravsky et al. 2024, arXiv
2402.05099): their queries go through one product with them, and two parts of a softmax are joined by

$o = o_a \sigma(a - b) + o_b \sigma(b - a)$,

with $o_a$ and $o_b$ the outputs over either part and $a$ and $b$ the logarithms of their sums of exponentials.

Axes: N tokens of a pass, B bundles of similar length, T tokens of the longest of them, P tokens of a trunk, H heads, G
heads of keys and values, D numbers of a head.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.models.precision import many_small_products

NAME = "tunewise_tree"
REFUSED = ("softcap", "s_aux", "position_bias")
"""What some architectures do to the logits, and this does not."""

Kept = Mapping[nn.Module, tuple[Tensor, Tensor]]
"""Keys and values [G, P, D] by attention layer."""


class NotForTrees(Exception):
    """This architecture's attention is not the plain one."""


@dataclass(frozen=True, eq=False)
class Group:
    """Bundles of similar length, whose tokens see none but those of their own bundle, and of trunks."""

    token_BT: Tensor
    """Which of the N each is; padding repeats some token."""
    mask_BTT: Tensor | None
    """What is added to their logits; None: each sees those before it and itself."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Tokens of a pass that follow on the same trunk: from `start` to `end`."""

    start: int
    end: int
    trunk: Kept


@dataclass
class Pass:
    """What the attention layers of a forward pass read and leave behind."""

    groups: Sequence[Group]
    place_N: Tensor
    """Where each token stands among those of all groups, laid in a row with their padding."""
    readings: Sequence[Reading] = ()
    keep: bool = False
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values [G, N, D] by attention layer, where they are kept."""
    longest: int = 0
    """Tokens of the longest path, for layers that see only so far."""
    wanted_S: Tensor | None = None
    """Tokens whose last hidden states are read, in order; None: all."""
    last: frozenset[nn.Module] = frozenset()
    """Attention layers whose outputs are needed at these tokens alone."""


_now = threading.local()


@contextlib.contextmanager
def during(tree_pass: Pass) -> Iterator[Pass]:
    """Within it, models with this attention read and write `tree_pass`."""
    _now.tree_pass = tree_pass
    try:
        yield tree_pass
    finally:
        del _now.tree_pass


def wanted() -> Tensor | None:
    """The tokens that the pass wants to read; None: all."""
    now: Pass = _now.tree_pass
    return now.wanted_S


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Output [1, N, H, D] of queries [1, H, N, D] over keys [1, G, N, D] and trunks; the pass says who sees whom.

    Raises:
        NotForTrees: the layer wants more than that.
    """
    now: Pass = _now.tree_pass
    window = others.get("sliding_window")
    foreign = [name for name in REFUSED if others.get(name) is not None]
    if foreign or attention_mask is None or (window is not None and window < now.longest):
        raise NotForTrees(f"attention with {foreign[0] if foreign else 'a window or no mask'}")
    if now.keep:
        now.kept[module] = (key[0], value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out_NHD, log_NH = _own(query[0], key[0], value[0], scale, now)
    for reading in now.readings:
        over = _readers(reading, None if module not in now.last else now.wanted_S)
        if isinstance(over, Tensor) and len(over) == 0:
            continue  # none of them is wanted; the kernel for CPUs ends the process where there are no queries
        keys, values = (part[None] for part in reading.trunk[module])
        part_BTHD, part_BTH = _attend(query[:, :, over], keys, values, scale, mask=None, causal=False)
        share = torch.sigmoid(part_BTH[0] - log_NH[over])[..., None].to(out_NHD.dtype)
        out_NHD[over] = torch.lerp(out_NHD[over], part_BTHD[0], share)
        log_NH[over] = torch.logaddexp(log_NH[over], part_BTH[0])
    return out_NHD[None], None


def _readers(reading: Reading, wanted_S: Tensor | None) -> slice | Tensor:
    """The tokens that read a trunk: all that follow on it, or the wanted among them."""
    if wanted_S is None:
        return slice(reading.start, reading.end)
    return wanted_S[(wanted_S >= reading.start) & (wanted_S < reading.end)]


def _own(query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scale: float, now: Pass) -> tuple[Tensor, Tensor]:
    """Outputs [N, H, D] over what stands in the tokens' own bundles, and logarithms of the softmax's sums [N, H]."""
    outs, logs = [], []
    for group in now.groups:
        picks = group.token_BT.flatten()
        query, key, value = (
            # by token, each of which has its numbers together
            part.transpose(0, 1).index_select(0, picks).view(*group.token_BT.shape, *part.shape[::2]).transpose(1, 2)
            for part in (query_HND, key_GND, value_GND)
        )
        out_BTHD, log_BTH = _attend(query, key, value, scale, mask=group.mask_BTT, causal=group.mask_BTT is None)
        outs.append(out_BTHD.flatten(0, 1))
        logs.append(log_BTH.flatten(0, 1))
    return torch.cat(outs).index_select(0, now.place_N), torch.cat(logs).index_select(0, now.place_N)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, D] and logarithms of the softmax's sums [B, T, H] of queries [B, H, T, D].

    On the CPU by PyTorch's kernel, which keeps no logits.
    """
    if query.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        added = None if mask is None else mask[:, None]
        with many_small_products():
            out, log = kernel(query, key, value, is_causal=causal, attn_mask=added, scale=scale)
        return out.transpose(1, 2), log.transpose(1, 2)
    return _written_out(query, key, value, scale, mask=mask, causal=causal)


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """The same by plain products."""
    bundles, heads, tokens, numbers = query.shape
    groups = key.shape[1]
    # the heads that share keys stand behind one another, as so many more queries
    flat = query.reshape(bundles, groups, -1, numbers)
    logits = ((flat * scale) @ key.transpose(2, 3)).float().view(bundles, groups, -1, tokens, key.shape[2])
    if causal:
        logits = logits.masked_fill(~torch.ones_like(logits[0, 0, 0], dtype=torch.bool).tril(), -torch.inf)
    if mask is not None:
        logits = logits + mask[:, None, None]
    log = logits.logsumexp(dim=-1, keepdim=True)
    weights = (logits - log).exp_().to(value.dtype).view(bundles, groups, -1, key.shape[2])
    out = (weights @ value).view(bundles, heads, tokens, numbers)
    return out.transpose(1, 2), log.view(bundles, heads, tokens).transpose(1, 2)


def register() -> None:
    """Make this attention known to transformers, under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
