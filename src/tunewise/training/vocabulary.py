"""How well tokens are foreseen, without ever holding the logits of all of them.

A part of the tokens at a time: their logits, the loss, and, where a gradient is wanted, that of the hidden states, at
once; the backward pass then only multiplies, unless weights that read the vocabulary are trained too. What is kept is
one vector for each token, not one number for each word of the vocabulary (as in Liger's fused loss, Hsu et al. 2024,
arXiv 2410.10989).

Axes: N tokens, V vocabulary, H hidden.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from tunewise.models.writing_base import WritingBase

LOGITS = 9 << 20
"""Numbers of the vocabulary's logits that are held at once: 36 MiB in float32. With a quarter of them products take 1.4
times as long, with more no less. glibc keeps freed blocks of up to 32 MiB, and in pieces, for whatever comes next."""
LOGITS_DEVICE = 1 << 26
"""On a GPU, which reads all weights of the vocabulary for each part: with fewer tokens in it, reading takes longer than
the products do."""
PIECE = 1 << 19
"""Of them that are normalized at once on a CPU."""


def token_losses(base: WritingBase, hidden_NH: Tensor, token_N: Tensor, smoothing_N: Tensor | None = None) -> Tensor:
    r"""$(1 - s) (-\log p(t)) + s\, \frac{1}{V} \sum_v -\log p(v)$ of each token t, summed.

    Differentiable by the hidden states, and by the weights that read the vocabulary where they are trained.
    `smoothing_N`: s of each token; None: 0.
    """
    weights = [weight for weight in base.read_weights if weight.requires_grad]
    loss: Tensor = _TokenLosses.apply(base, hidden_NH, token_N, smoothing_N, *weights)  # type: ignore[no-untyped-call]
    return loss


class _TokenLosses(torch.autograd.Function):
    """Where weights are trained, what their gradient is multiplied by is known only on the way back: found there."""

    @staticmethod
    def forward(
        ctx: Any, base: WritingBase, hidden_NH: Tensor, token_N: Tensor, smoothing_N: Any, *weights: Tensor
    ) -> Tensor:
        total = torch.zeros((), dtype=_wide(hidden_NH), device=hidden_NH.device)
        slope_NH = None if weights else torch.empty_like(hidden_NH)
        for some in _parts(base, hidden_NH):
            share_N = None if smoothing_N is None else smoothing_N[some]
            if slope_NH is None:
                total += _loss(_log_softmax_(base.read(hidden_NH[some])), token_N[some], share_N)
            else:
                loss, (slope_NH[some],) = _found(base, hidden_NH[some], token_N[some], share_N, ())
                total += loss
        ctx.base, ctx.weights = base, weights
        ctx.save_for_backward(hidden_NH, token_N, smoothing_N, slope_NH)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, token_N, smoothing_N, slope_NH = ctx.saved_tensors
        if slope_NH is not None:
            return None, slope_NH * gradients[0], None, None
        slope_NH = torch.empty_like(hidden_NH)
        slopes: list[Tensor | None] = [None for _ in ctx.weights]
        for some in _parts(ctx.base, hidden_NH):
            share_N = None if smoothing_N is None else smoothing_N[some]
            _, (slope_NH[some], *found) = _found(
                ctx.base, hidden_NH[some], token_N[some], share_N, ctx.weights, gradients[0]
            )
            # a weight whose gradient its layer adds has none here
            slopes = [more if own is None else own.add_(more) for own, more in zip(slopes, found, strict=True)]
        return None, slope_NH, None, None, *slopes


def _found(
    base: WritingBase,
    hidden_NH: Tensor,
    token_N: Tensor,
    share_N: Tensor | None,
    weights: Sequence[Tensor],
    times: Tensor | float = 1.0,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss of a part, and its gradients by the hidden states and the weights, multiplied."""
    with torch.enable_grad():
        own_NH = hidden_NH.detach().requires_grad_()
        logits_NV = base.read(own_NH)
    read = get_gradient_edge(logits_NV)  # how they were read, without the change that follows
    log_NV = _log_softmax_(logits_NV)
    loss = _loss(log_NV, token_N, share_N)
    slope_NV = _slopes_(log_NV, token_N, share_N).mul_(times).to(logits_NV.dtype)
    return loss, torch.autograd.grad([read], [own_NH, *weights], slope_NV, allow_unused=True)


def _parts(base: WritingBase, hidden_NH: Tensor) -> Iterator[slice]:
    step = max(1, (LOGITS if hidden_NH.device.type == "cpu" else LOGITS_DEVICE) // base.vocabulary)
    return (slice(start, start + step) for start in range(0, len(hidden_NH), step))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _log_softmax_(logits_NV: Tensor) -> Tensor:
    """On a CPU in the memory of the logits where they are precise enough, a few rows at a time."""
    if logits_NV.device.type != "cpu":
        return torch.log_softmax(logits_NV.detach(), dim=-1, dtype=_wide(logits_NV))
    log_NV = logits_NV.detach().to(_wide(logits_NV))
    for some_NV in torch.split(log_NV, max(1, PIECE // log_NV.shape[1])):
        some_NV.copy_(torch.log_softmax(some_NV, dim=-1))
    return log_NV


def _loss(log_NV: Tensor, token_N: Tensor, share_N: Tensor | None) -> Tensor:
    right_N = log_NV.gather(1, token_N[:, None])[:, 0]
    if share_N is None:
        return -right_N.sum()
    share_N = share_N.to(log_NV.dtype)
    return -((1.0 - share_N) * right_N + share_N * log_NV.mean(-1)).sum()


def _slopes_(log_NV: Tensor, token_N: Tensor, share_N: Tensor | None) -> Tensor:
    """Of the loss by the logits, in the memory of the log-probabilities."""
    slope_NV = log_NV.exp_()
    rows = torch.arange(len(slope_NV), device=slope_NV.device)
    if share_N is None:
        slope_NV[rows, token_N] -= 1.0
    else:
        share_N = share_N.to(slope_NV.dtype)
        slope_NV -= (share_N / slope_NV.shape[1])[:, None]
        slope_NV[rows, token_N] -= 1.0 - share_N
    return slope_NV


def token_log_probabilities(base: WritingBase, hidden_NH: Tensor, token_N: Tensor) -> Tensor:
    """Natural log [N] of each token's probability, float64 on the CPU; no gradient is kept."""
    found = []
    with torch.no_grad():
        for some in _parts(base, hidden_NH):
            log_NV = _log_softmax_(base.read(hidden_NH[some]))
            found.append(log_NV.gather(1, token_N[some, None])[:, 0].double().cpu())
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
