"""Biases of frozen layers, one set per member: P members share one base and one pass.

Axes: P members (A of them active), M tokens of one member, O outputs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewise.adapters.lora import PREFIX, target_layers
from tunewise.adapters.stack import Member, Stack, replace_module
from tunewise.errors import ModelError

Biased = nn.Linear | nn.LayerNorm


def biased_layers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the linear layers and the layer norms inside the transformer's blocks, with a bias or without.

    Raises:
        ModelError: the model has no blocks of linear layers.
    """
    linear = set(target_layers(model, "all", BitfitStack.kind))
    return tuple(
        name
        for name, module in model.named_modules()
        if name in linear or (isinstance(module, nn.LayerNorm) and re.search(r"\.\d+\.", name))
    )


class StackedBias(nn.Module):
    """A frozen linear layer or layer norm with P members' biases in place of its own, for rows sorted by member."""

    def __init__(self, frozen: Biased, path: str, stack: "BitfitStack") -> None:
        super().__init__()
        self.weight, self.path, self.stack = frozen.weight, path, stack
        self.norm = (frozen.normalized_shape, frozen.eps) if isinstance(frozen, nn.LayerNorm) else None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for rows [A * S, ..., I]."""
        bias_AO = self.stack.active(f"{self.path}.bias").to(x.dtype)
        if len(bias_AO) == 1:
            return self._biased(x, bias_AO[0])
        y_AMO = self._biased(self.stack.by_member(x, self.path), None)
        y_AMO += bias_AO[:, None]
        return y_AMO.view(*x.shape[:-1], -1)

    def _biased(self, x: Tensor, bias_O: Tensor | None) -> Tensor:
        if self.norm is None:
            return F.linear(x, self.weight, bias_O)
        shape, eps = self.norm
        return F.layer_norm(x, list(shape), self.weight, bias_O, eps)


class BitfitStack(Stack):
    """P sets of biases for the layers of one base (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    kind = "bitfit"

    def __init__(self, model: nn.Module, members: Sequence[Member], *, targets: Sequence[str]) -> None:
        """Nothing is attached yet. `targets` are paths.

        Raises:
            ModelError: a target is neither a linear layer nor a layer norm of this model.
        """
        self.layers = {path: _biased_layer(model, path) for path in targets}
        super().__init__(members, next(model.parameters()).device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`<path>.bias` [O]."""
        return {f"{path}.bias": (_width(layer),) for path, layer in self.layers.items()}

    def initial(self, name: str, member: Member) -> Tensor:
        """The base's own bias, zeros where it has none: the same for every member."""
        layer = self.layers[name.removesuffix(".bias")]
        own_O: Tensor | None = layer.bias
        return torch.zeros(_width(layer)) if own_O is None else own_O.detach().float()

    def decays(self, name: str) -> bool:
        return False

    def attach(self, model: nn.Module) -> nn.Module:
        for path, layer in self.layers.items():
            replace_module(model, path, StackedBias(layer, path, self))
        return model


def _width(layer: Biased) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.normalized_shape[-1]


def _biased_layer(model: nn.Module, path: str) -> Biased:
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        layer = None
    if not isinstance(layer, Biased):
        raise ModelError(
            f"bitfit: '{path}' is neither a linear layer nor a layer norm of {type(model).__name__}. "
            "The adapter was made for another base."
        )
    return layer


@dataclass(frozen=True, kw_only=True)
class BitfitForm:
    """Nothing but the biases themselves. PEFT has no such method; the files have its layout and our type."""

    peft_type: ClassVar[str] = "BITFIT"

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> BitfitStack:
        return BitfitStack(model, [Member()], targets=_paths(tensors))

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"target_modules": _paths(tensors)}

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        tensors: dict[str, Tensor] = {}
        for key, tensor in stored.items():
            if not (key.startswith(PREFIX) and key.endswith(".bias") and tensor.dim() == 1):
                raise ValueError(f"holds '{key}' of shape {tuple(tensor.shape)}, which is no bias. Save it again.")
            tensors[key.removeprefix(PREFIX)] = tensor
        if config.get("target_modules") != _paths(tensors):
            raise ValueError(
                f"should hold the biases of its `target_modules` {config.get('target_modules')!r}, "
                f"found {_paths(tensors)!r}. Save the adapter again."
            )
        return tensors, cls()


def _paths(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(name.removesuffix(".bias") for name in tensors)
