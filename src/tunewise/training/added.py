"""A linear layer whose weight's gradient is added where it is kept, without a copy of its size on the way.

It is for the one layer that is as large as the vocabulary. Axes: N inputs in a row, I numbers of each, O of an output.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AddedLinear(nn.Module):
    """In the place of a linear layer, over the same weight; autograd sees no gradient of the weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _Product.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.weight_OI = weight_OI  # the leaf itself: what is saved comes back without its gradient
        ctx.save_for_backward(input)
        return F.linear(input, weight_OI)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (input,), weight_OI = ctx.saved_tensors, ctx.weight_OI
        if weight_OI.requires_grad:
            if weight_OI.grad is None:
                weight_OI.grad = torch.zeros_like(weight_OI)
            slope_NO, input_NI = slope.flatten(0, -2), input.flatten(0, -2)
            weight_OI.grad.addmm_(slope_NO.T, input_NI)
        return slope @ weight_OI, None
