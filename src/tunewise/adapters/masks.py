"""Dropout masks as a function of (member seed, step, site, token, feature): no stored generator, no order of calls.

A mask of a token is the same whichever rows share its micro-batch and whichever members share its stack.
Axes: K sites, P members, S sequences, T positions, M tokens of one member (S times T), I features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tunewise.seeding import derive

_DRAWS = 1 << 16


def token_hash(sequence_S: Tensor, positions: int) -> Tensor:
    """[M] int32: one well-mixed number per token, from the global number of its sequence and its position there."""
    position_T = torch.arange(positions, dtype=torch.int32, device=sequence_S.device)
    row_S1 = _mix(sequence_S.to(torch.int32))[:, None]
    return _mix(row_S1 + position_T * 40503).flatten()


def dropout_masks(
    token_M: Tensor,
    features: int,
    *,
    rate_P: Tensor,
    seeds: Sequence[int],
    step: int,
    sites: Sequence[str],
    dtype: torch.dtype,
) -> Tensor:
    """[K, P, M, I]: 0 with probability `rate_P`, else 1 / (1 - rate), so that the mean is kept (inverted dropout)."""
    place = torch.arange((features + 1) // 2, dtype=torch.int32, device=token_M.device)
    starts = [{seed: derive(seed, "dropout", step, site) & 0x7FFFFFFF for seed in set(seeds)} for site in sites]
    start_KP = torch.tensor([[own[seed] for seed in seeds] for own in starts], dtype=torch.int32, device=token_M.device)
    feature_KPI = _mix(_mix(place * 69069) ^ start_KP[..., None])
    # one number decides on two features, by its halves
    draw_KPMI = _mix(token_M[:, None] ^ feature_KPI[:, :, None, :]).view(torch.int16)[..., :features]
    least_P = ((rate_P * _DRAWS).round() - _DRAWS // 2).clamp(max=_DRAWS // 2 - 1).to(torch.int16)
    scale_P = (1.0 / (1.0 - rate_P)).to(dtype)
    return (draw_KPMI >= least_P[:, None, None]).to(dtype).mul_(scale_P[:, None, None])


def _mix(value: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 (Appleby 2011): every input bit reaches every output bit."""
    value = (value >> 16).bitwise_and_(0xFFFF).bitwise_xor_(value).mul_(-2048144789)
    value = (value >> 13).bitwise_and_(0x7FFFF).bitwise_xor_(value).mul_(-1028477387)
    return (value >> 16).bitwise_and_(0xFFFF).bitwise_xor_(value)
