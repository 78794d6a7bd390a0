"""A frozen base whose linear layers are laid out for oneDNN, with bias and GELU computed inside the product."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from tunewise.models.tree import shared_tree

ACTIVATED = (("dense", "intermediate_act_fn"), ("lin1", "activation"))
"""A linear layer and the activation that follows it, by the names that BERT's kin and DistilBERT give them."""
SAME = 1e-4
"""Largest relative difference between packed and plain outputs; rounding makes about 1e-6."""


def packed(model: nn.Module, tokens: int, trial: Callable[[nn.Module], Tensor]) -> nn.Module:
    """The model with packed linear layers, where that works and gives the same answers; else the model itself.

    It works in float32 on CPUs with oneDNN. Every other parameter is shared with `model`, which stays as it is. For
    inference only: no gradient passes through.

    Args:
        model: a frozen base.
        tokens: of a usual batch; the layout is chosen for it, other sizes work too.
        trial: outputs of a model on a small batch, to compare the two by.
    """
    first = next(model.parameters())
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or first.device.type != "cpu" or first.dtype != torch.float32:
        return model
    twin = shared_tree(model)
    for module in list(twin.modules()):
        _pack(module, tokens)
    plain = trial(model)
    try:
        difference = (trial(twin) - plain).norm() / plain.norm()
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return model  # a layer's weight is used by something else than the layer
    return twin if float(difference) < SAME else model


def _pack(module: nn.Module, tokens: int) -> None:
    """Replace the linear layers directly in this module."""
    activation = next((pair for pair in ACTIVATED if all(hasattr(module, name) for name in pair)), None)
    for name, child in list(module.named_children()):
        if type(child) is not nn.Linear:
            continue
        gelu = activation is not None and name == activation[0] and _is_gelu(getattr(module, activation[1]))
        setattr(module, name, _PackedLinear(child, tokens, gelu=gelu))
        if gelu and activation is not None:
            setattr(module, activation[1], nn.Identity())


def _is_gelu(activation: object) -> bool:
    """Whether it is GELU with the error function, not one of its approximations."""
    values = torch.linspace(-4, 4, 33)
    return callable(activation) and torch.equal(cast(Tensor, activation(values)), nn.functional.gelu(values))


class _PackedLinear(nn.Module):
    def __init__(self, linear: nn.Linear, tokens: int, *, gelu: bool) -> None:
        super().__init__()
        self.bias = linear.bias
        self.activation, self.algorithm = ("gelu", "none") if gelu else ("none", "")
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), tokens)

    def forward(self, input_: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            input_, self.packed, self.bias, self.activation, [], self.algorithm
        )
        return product
