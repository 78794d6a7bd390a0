"""Vectors that rescale what frozen linear layers read or give, stacked: P members share one base and one pass.

Axes: P members (A of them active), M tokens of one member, I features.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from tunewise.adapters.bottleneck import feedforward_layers
from tunewise.adapters.lora import PREFIX, target_layers
from tunewise.adapters.stack import Member, Stack, linear_of, replace_module

Side = Literal["in", "out"]

KEYS_AND_VALUES = (
    *("key", "value", "k_lin", "v_lin", "key_proj", "value_proj", "k_proj", "v_proj"),
    *("SelfAttention.k", "SelfAttention.v", "EncDecAttention.k", "EncDecAttention.v"),
    *("Wqkv", "query_key_value", "attn.c_attn"),
)
"""Endings of the key and value projections; the last three give queries too, which are then rescaled with them."""


def rescaled_layers(model: nn.Module) -> dict[str, Side]:
    """By path: the outputs of keys and values, the inputs of the last layer of each feed-forward part.

    ModernBERT, GPT-2, GPT-NeoX and BLOOM make queries, keys and values in one layer. All it gives is rescaled, which
    PEFT can load; factors on queries add little to those on keys.

    Raises:
        ModelError: the model's blocks are not known.
    """
    sides: dict[str, Side] = {path: "out" for path in target_layers(model, KEYS_AND_VALUES, IA3Stack.kind)}
    return sides | {path: "in" for path in feedforward_layers(model, IA3Stack.kind)}


class StackedRescaledLinear(nn.Module):
    """A frozen linear layer whose input or output P members rescale, for rows sorted by member."""

    def __init__(self, frozen: nn.Linear, path: str, side: Side, stack: "IA3Stack") -> None:
        super().__init__()
        self.frozen, self.path, self.side, self.stack = frozen, path, side, stack

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for rows [A * S, ..., I]."""
        y: Tensor = self.frozen(self._rescaled(x)) if self.side == "in" else self._rescaled(self.frozen(x))
        return y

    def _rescaled(self, x: Tensor) -> Tensor:
        factor_AI = self.stack.active(f"{self.path}.{self.side}")
        x_AMI = self.stack.by_member(x, self.path)
        # not rounded before the product: near 1, bfloat16 has steps of 0.8 %
        return (x_AMI * factor_AI[:, None]).to(x.dtype).view(x.shape)


class IA3Stack(Stack):
    """P sets of rescaling vectors for the layers of one base (Liu et al. 2022, arXiv 2205.05638)."""

    kind = "ia3"

    def __init__(self, model: nn.Module, members: Sequence[Member], *, targets: Mapping[str, Side]) -> None:
        """Nothing is attached yet. `targets` are paths, each with what is rescaled there.

        Raises:
            ModelError: a target is not a linear layer of this model.
        """
        self.sides = dict(targets)
        self.layers = {path: linear_of(model, path, self.kind) for path in targets}
        super().__init__(members, next(iter(self.layers.values())).weight.device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`<path>.in` or `<path>.out` [I]."""
        return {
            f"{path}.{side}": (getattr(self.layers[path], f"{side}_features"),) for path, side in self.sides.items()
        }

    def initial(self, name: str, member: Member) -> Tensor:
        """Ones: the same for every member."""
        return torch.ones(self.shapes()[name])

    def decays(self, name: str) -> bool:
        """No: a decay would pull the factors to 0, not to the 1 that changes nothing."""
        return False

    def attach(self, model: nn.Module) -> nn.Module:
        for path, layer in self.layers.items():
            replace_module(model, path, StackedRescaledLinear(layer, path, self.sides[path], self))
        return model


@dataclass(frozen=True, kw_only=True)
class IA3Form:
    """Nothing but the vectors themselves, in the format of PEFT's IA3."""

    peft_type: ClassVar[str] = "IA3"

    turned: bool = False
    """Whether the base keeps its layers as [inputs, outputs]; PEFT wants to know, nothing here depends on it."""

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> IA3Stack:
        return IA3Stack(model, [Member()], targets=_sides(tensors))

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        sides = _sides(tensors)
        return {
            "exclude_modules": None,
            "fan_in_fan_out": self.turned,
            "feedforward_modules": sorted(path for path, side in sides.items() if side == "in"),
            "init_ia3_weights": True,
            "modules_to_save": None,
            "target_modules": sorted(sides),
        }

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for path, side in _sides(tensors).items():
            factor_I = tensors[f"{path}.{side}"]
            named[f"{PREFIX}{path}.ia3_l"] = factor_I[None] if side == "in" else factor_I[:, None]
        return named

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        if config.get("modules_to_save"):
            raise ValueError("uses `modules_to_save` (fully trained modules), which is not read. Train without it.")
        targets, feedforward = (_names(config, key) for key in ("target_modules", "feedforward_modules"))
        tensors: dict[str, Tensor] = {}
        for key, tensor in stored.items():
            path = key.removeprefix(PREFIX).removesuffix(".ia3_l")
            if f"{PREFIX}{path}.ia3_l" != key or not _named(targets, path):
                raise ValueError(
                    f"holds '{key}', which is no vector of one of its `target_modules`. Save the adapter again."
                )
            side: Side = "in" if _named(feedforward, path) else "out"
            if tensor.dim() != 2 or tensor.shape[0 if side == "in" else 1] != 1:
                wanted = "(1, inputs)" if side == "in" else "(outputs, 1)"
                raise ValueError(
                    f"layer '{path}' should have a vector of shape {wanted}, found {tuple(tensor.shape)}. "
                    "Save the adapter again."
                )
            tensors[f"{path}.{side}"] = tensor.flatten()
        named = [] if isinstance(targets, str) else [name for name in targets if _is_path(name)]
        lost = sorted(set(named) - _sides(tensors).keys())
        if lost:
            raise ValueError(f"should hold a vector of layer '{lost[0]}', found none. Save the adapter again.")
        return tensors, cls(turned=bool(config.get("fan_in_fan_out", False)))


def _sides(tensors: Mapping[str, Tensor]) -> dict[str, Side]:
    parts = [name.rpartition(".") for name in sorted(tensors)]
    return {path: "in" if side == "in" else "out" for path, _, side in parts}


def _names(config: Mapping[str, Any], key: str) -> str | list[str]:
    """Endings of paths, or one regular expression for all of a path, as PEFT has them.

    Raises:
        ValueError: it is neither.
    """
    names = config.get(key)
    if isinstance(names, str):
        try:
            re.compile(names)
        except re.error as error:
            raise ValueError(f"says `{key}` {names!r}, which is no regular expression ({error}).") from error
        return names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"says `{key}` {names!r}; it must be a list of layers or a regular expression.")
    return names


def _named(names: str | list[str], path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(f".{path}".endswith(f".{name}") for name in names)


def _is_path(name: str) -> bool:
    """Whether it names one layer of one block, not an ending of many."""
    return re.search(r"\.\d+\.", name) is not None
