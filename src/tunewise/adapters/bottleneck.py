"""Small two-layer networks inside the blocks of a frozen base, stacked: P members share one base and one pass.

Axes: P members (A of them active), M tokens of one member, I inputs, D width of the bottleneck, O outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewise.adapters.lora import PREFIX, target_layers
from tunewise.adapters.stack import Member, Stack, linear_of, replace_module
from tunewise.errors import ModelError
from tunewise.seeding import derive

Placement = Literal["houlsby", "pfeiffer", "parallel"]
Activation = Literal["relu", "gelu"]

ATTENTION_OUTPUT = (
    *("attention.output.dense", "attention.out_lin", "attn.Wo"),
    *("self_attn.o_proj", "self_attn.dense", "attention.dense", "self_attention.dense", "attn.c_proj"),
    *("SelfAttention.o", "EncDecAttention.o", "self_attn.out_proj", "encoder_attn.out_proj"),
)
FEEDFORWARD = {
    "intermediate.dense": "output.dense",
    "ffn.lin1": "ffn.lin2",
    "mlp.Wi": "mlp.Wo",
    "mlp.up_proj": "mlp.down_proj",
    "mlp.fc1": "mlp.fc2",
    "mlp.c_fc": "mlp.c_proj",
    "mlp.dense_h_to_4h": "mlp.dense_4h_to_h",
    "DenseReluDense.wi": "DenseReluDense.wo",
    "DenseReluDense.wi_0": "DenseReluDense.wo",
    "fc1": "fc2",
}
"""First and last layer of a block's feed-forward part, by the names that the architectures give them."""
START_SPREAD = 0.02
"""Standard deviation of the down projection at the start."""

_ON_DISK = {
    "down": "adapter_down.weight",
    "down_bias": "adapter_down.bias",
    "up": "adapter_up.weight",
    "up_bias": "adapter_up.bias",
}


def feedforward_layers(model: nn.Module, kind: str = "adapter") -> dict[str, str]:
    """Path of the first layer of every block's feed-forward part, by the path of its last one.

    Raises:
        ModelError: the model's feed-forward parts are not known.
    """
    pairs = {}
    for first in target_layers(model, tuple(FEEDFORWARD), kind):
        ending = next(each for each in FEEDFORWARD if first.endswith(each))
        pairs[first.removesuffix(ending) + FEEDFORWARD[ending]] = first
    return pairs


def adapted_layers(model: nn.Module, placement: Placement) -> tuple[str, ...]:
    """Paths of the layers whose output a bottleneck is added to, before the residual sum.

    Raises:
        ModelError: the model's blocks are not known.
    """
    last = set(feedforward_layers(model))
    if placement == "houlsby":
        last |= set(target_layers(model, ATTENTION_OUTPUT, BottleneckStack.kind))
    return tuple(name for name, _ in model.named_modules() if name in last)


class _Reader(nn.Module):
    """A frozen layer that keeps what it reads until the end of its part of the block."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        y: Tensor = self.frozen(x)
        return y

    def take(self) -> Tensor:
        seen, self.seen = self.seen, None
        assert seen is not None
        return seen


class StackedBottleneck(nn.Module):
    """A frozen linear layer with the bottlenecks of P members after or beside it, for rows sorted by member."""

    def __init__(self, frozen: nn.Linear, path: str, stack: "BottleneckStack", reader: _Reader | None) -> None:
        """`reader`: reads what the bottlenecks are to read; without one they read the layer's output."""
        super().__init__()
        self.frozen, self.path, self.stack, self.reader = frozen, path, stack, reader

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for rows [A * S, ..., I]."""
        y: Tensor = self.frozen(x)
        read = y if self.reader is None else self.reader.take()
        stack, dtype = self.stack, y.dtype
        down_AID, up_ADO = stack.active(f"{self.path}.down"), stack.active(f"{self.path}.up")
        down_bias_AD, up_bias_AO = stack.active(f"{self.path}.down_bias"), stack.active(f"{self.path}.up_bias")
        scale_A11 = stack.active_scale.to(up_ADO)[:, None, None]
        read_AMI = stack.by_member(read, self.path)
        h_AMD = stack.activate(_add_product(down_bias_AD[:, None].to(dtype), read_AMI, down_AID.to(dtype)))
        mask_AMD = stack.mask(self.path, h_AMD.shape[1], stack.size, dtype)
        h_AMD = h_AMD if mask_AMD is None else h_AMD * mask_AMD
        out_AMO = _add_product(stack.by_member(y, self.path), h_AMD, (up_ADO * scale_A11).to(dtype))
        out_AMO += (up_bias_AO[:, None] * scale_A11).to(dtype)
        return out_AMO.view(y.shape)


def _add_product(start: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`start` plus a batched product; one member goes through the plain one, which has the faster kernels."""
    if left.shape[0] == 1:
        return torch.addmm(start[0], left[0], right[0])[None]
    return torch.baddbmm(start, left, right)


class BottleneckStack(Stack):
    """P sets of bottlenecks in the blocks of one base (Houlsby et al. 2019, arXiv 1902.00751)."""

    kind = "adapter"

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Member],
        *,
        size: int,
        targets: Sequence[str],
        placement: Placement,
        activation: Activation = "relu",
    ) -> None:
        """Nothing is attached yet. `targets` are paths of `adapted_layers`.

        Raises:
            ModelError: a target is not a linear layer of this model, or does not end a feed-forward part where the
                placement asks for that.
        """
        self.size = size
        self.activate = F.relu if activation == "relu" else F.gelu
        self.layers = {path: linear_of(model, path, self.kind) for path in targets}
        self.readers: dict[str, tuple[str, _Reader]] = {}
        if placement == "parallel":
            pairs = feedforward_layers(model)
            for path in targets:
                if path not in pairs:
                    raise ModelError(
                        f"adapter: '{path}' does not end a feed-forward part of {type(model).__name__}. "
                        "The adapter was made for another base."
                    )
                self.readers[path] = (pairs[path], _Reader(linear_of(model, pairs[path], self.kind)))
        super().__init__(members, next(iter(self.layers.values())).weight.device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`<path>.down` [I, D], `<path>.down_bias` [D], `<path>.up` [D, O] and `<path>.up_bias` [O]."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path, layer in self.layers.items():
            read = self.readers[path][1].frozen.in_features if path in self.readers else layer.out_features
            shapes[f"{path}.down"] = (read, self.size)
            shapes[f"{path}.down_bias"] = (self.size,)
            shapes[f"{path}.up"] = (self.size, layer.out_features)
            shapes[f"{path}.up_bias"] = (layer.out_features,)
        return shapes

    def initial(self, name: str, member: Member) -> Tensor:
        """The down projection small and random, all else zero, so that nothing is added at the start."""
        shape = self.shapes()[name]
        if not name.endswith(".down"):
            return torch.zeros(shape)
        rng = torch.Generator().manual_seed(derive(member.seed, "adapter", name.removesuffix(".down")))
        return START_SPREAD * torch.randn(shape, generator=rng)

    def decays(self, name: str) -> bool:
        return not name.endswith("_bias")

    def attach(self, model: nn.Module) -> nn.Module:
        for path, layer in self.layers.items():
            first, reader = self.readers.get(path, ("", None))
            if reader is not None:
                replace_module(model, first, reader)
            replace_module(model, path, StackedBottleneck(layer, path, self, reader))
        return model


@dataclass(frozen=True, kw_only=True)
class BottleneckForm:
    """What a bottleneck's tensors do not say. PEFT has no such method; the files have its layout and our type."""

    peft_type: ClassVar[str] = "BOTTLENECK"

    size: int
    placement: Placement
    activation: Activation
    scale: float
    dropout: float = 0.0

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> BottleneckStack:
        return BottleneckStack(
            model,
            [Member(scale=self.scale)],
            size=self.size,
            targets=_paths(tensors),
            placement=self.placement,
            activation=self.activation,
        )

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "dropout": self.dropout,
            "placement": self.placement,
            "scale": self.scale,
            "size": self.size,
            "target_modules": _paths(tensors),
        }

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for name, tensor in tensors.items():
            path, _, part = name.rpartition(".")
            named[f"{PREFIX}{path}.{_ON_DISK[part]}"] = tensor.t() if tensor.dim() == 2 else tensor
        return named

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        form = cls._from_config(config)
        tensors: dict[str, Tensor] = {}
        for key, tensor in stored.items():
            part = next((part for part, ending in _ON_DISK.items() if key.endswith(f".{ending}")), None)
            if part is None or not key.startswith(PREFIX):
                raise ValueError(f"holds '{key}', which is no part of a bottleneck. Save the adapter again.")
            path = key[len(PREFIX) : -len(_ON_DISK[part]) - 1]
            tensors[f"{path}.{part}"] = tensor.t().contiguous() if tensor.dim() == 2 else tensor
        if config.get("target_modules") != _paths(tensors):
            raise ValueError(
                f"should hold bottlenecks at its `target_modules` {config.get('target_modules')!r}, "
                f"found {_paths(tensors)!r}. Save the adapter again."
            )
        for path in _paths(tensors):
            form._check(path, {part: tensors.get(f"{path}.{part}") for part in _ON_DISK})
        return tensors, form

    def _check(self, path: str, parts: Mapping[str, Tensor | None]) -> None:
        """Raises ValueError where a part is missing or is not as wide as the config says."""
        wide = {
            part: None if tensor is None else tensor.shape[0 if part == "up" else -1] for part, tensor in parts.items()
        }
        if None in wide.values() or any(wide[part] != self.size for part in ("down", "down_bias", "up")):
            raise ValueError(
                f"layer '{path}' should have both projections and biases of a bottleneck of size {self.size}, "
                f"found {', '.join(f'{part} {wide[part]}' for part in wide)}. Save the adapter again."
            )

    @classmethod
    def _from_config(cls, config: Mapping[str, Any]) -> Self:
        for key, known in (("placement", get_args(Placement)), ("activation", get_args(Activation))):
            if config.get(key) not in known:
                raise ValueError(f"says `{key}` {config.get(key)!r}; it must be one of {', '.join(known)}.")
        size, scale, dropout = config.get("size"), config.get("scale"), config.get("dropout", 0.0)
        if not isinstance(size, int) or size < 1 or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(f"says `size` {size!r} and `scale` {scale!r}; both must be numbers above 0.")
        if not isinstance(dropout, (int, float)):
            raise ValueError(f"says `dropout` {dropout!r}; it must be a number.")
        return cls(
            size=size,
            placement=config["placement"],
            activation=config["activation"],
            scale=float(scale),
            dropout=float(dropout),
        )


def _paths(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in tensors})
