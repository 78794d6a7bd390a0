"""How well tokens are foreseen, without ever holding the logits of all of them.

A part of the tokens at a time: their logits, the loss, and, where a gradient is wanted, that of the hidden states, at
once; the backward pass then only multiplies. What is kept is one vector for each token, not one number for each word of
the vocabulary (as in Liger's fused loss, Hsu et al. 2024, arXiv 2410.10989).

Axes: N tokens, V vocabulary, H hidden.
"""

from typing import Any

import torch
from torch import Tensor

from tunewise.models.writing_base import WritingBase

LOGITS = 1 << 23
"""Numbers of the vocabulary's logits that are held at once: 32 MiB in float32. With a quarter of them products take 1.4
times as long, with more no less."""


def token_losses(base: WritingBase, hidden_NH: Tensor, token_N: Tensor, smoothing_N: Tensor | None = None) -> Tensor:
    r"""$(1 - s) (-\log p(t)) + s\, \frac{1}{V} \sum_v -\log p(v)$ of each token t, summed.

    Differentiable by the hidden states, and by the weights that read the vocabulary where they are trained.
    `smoothing_N`: s of each token; None: 0.
    """
    weights = [weight for weight in base.read_weights if weight.requires_grad]
    loss: Tensor = _TokenLosses.apply(base, hidden_NH, token_N, smoothing_N, *weights)  # type: ignore[no-untyped-call]
    return loss


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: WritingBase, hidden_NH: Tensor, token_N: Tensor, smoothing_N: Any, *weights: Tensor
    ) -> Tensor:
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        slope_NH = torch.empty_like(hidden_NH)
        slopes: list[Tensor] = []
        for start in range(0, len(hidden_NH), step := max(1, LOGITS // base.vocabulary)):
            some = slice(start, start + step)
            with torch.enable_grad():
                own_NH = hidden_NH[some].detach().requires_grad_()
                logits_NV = base.read(own_NH)
            log_NV = torch.log_softmax(logits_NV.detach(), dim=-1, dtype=wide)
            right_N = log_NV.gather(1, token_N[some, None])[:, 0]
            share_N = None if smoothing_N is None else smoothing_N[some].to(wide)
            if share_N is None:
                total -= right_N.sum()
            else:
                total -= ((1.0 - share_N) * right_N + share_N * log_NV.mean(-1)).sum()
            slope_NV = log_NV.exp_()
            rows = torch.arange(len(slope_NV), device=slope_NV.device)
            if share_N is None:
                slope_NV[rows, token_N[some]] -= 1.0
            else:
                slope_NV -= (share_N / base.vocabulary)[:, None]
                slope_NV[rows, token_N[some]] -= 1.0 - share_N
            found = torch.autograd.grad(logits_NV, [own_NH, *weights], slope_NV.to(logits_NV.dtype))
            slope_NH[some] = found[0]
            if not slopes:
                slopes = list(found[1:])
            else:
                for slope, more in zip(slopes, found[1:], strict=True):
                    slope += more
        ctx.save_for_backward(slope_NH, *slopes)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slope_NH, *slopes = ctx.saved_tensors
        return None, slope_NH * gradients[0], None, None, *(slope.mul_(gradients[0]) for slope in slopes)


def token_log_probabilities(base: WritingBase, hidden_NH: Tensor, token_N: Tensor) -> Tensor:
    """Natural log [N] of each token's probability, float64 on the CPU; no gradient is kept."""
    found = []
    with torch.no_grad():
        for start in range(0, len(hidden_NH), step := max(1, LOGITS // base.vocabulary)):
            logits_NV = base.read(hidden_NH[start : start + step])
            wide = torch.promote_types(logits_NV.dtype, torch.float32)
            log_NV = torch.log_softmax(logits_NV, dim=-1, dtype=wide)
            found.append(log_NV.gather(1, token_N[start : start + step, None])[:, 0].double().cpu())
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
