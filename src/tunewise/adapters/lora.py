"""Low-rank updates of frozen linear layers, stacked: P members share one base and one pass.

Axes: P members (A of them active), M tokens of one member, N all rows of a call (A times M), I inputs, O outputs,
R rank.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewise.adapters.stack import Member, Stack, linear_of, replace_module
from tunewise.errors import ModelError
from tunewise.seeding import derive

Targets = Literal["all", "attention", "feedforward"]
Start = Literal["random", "pissa"]
PREFIX = "base_model.model."

_MUST_BE_EMPTY = {
    "modules_to_save": "fully trained modules",
    "rank_pattern": "ranks that differ between layers",
    "alpha_pattern": "alphas that differ between layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters outside linear layers",
    "layer_replication": "replicated layers",
    "lora_bias": "biases in the update",
    "alora_invocation_tokens": "activation by tokens",
}


def target_layers(model: nn.Module, targets: Targets | Sequence[str] = "all", kind: str = "lora") -> tuple[str, ...]:
    """Paths of the linear layers inside the transformer's blocks (never pooler, embeddings or head).

    `targets` is "all", "attention", "feedforward", or endings of paths such as ("query", "value").

    Raises:
        ModelError: nothing matches.
    """
    blocks = [name for name, module in model.named_modules() if _is_linear(module) and re.search(r"\.\d+\.", name)]
    # T5 numbers the parts of a block, too
    inside = {name: re.split(r"\.\d+\.", name)[-1].lower() for name in blocks}
    if targets == "all":
        found = blocks
    elif targets == "attention":
        found = [name for name in blocks if "att" in inside[name].split(".")[0]]
    elif targets == "feedforward":
        found = [name for name in blocks if "att" not in inside[name].split(".")[0]]
    else:
        found = [name for name in blocks if any(f".{name}".endswith(f".{ending}") for ending in targets)]
    if not found:
        endings = sorted({name.rsplit(".", 1)[-1] for name in blocks})
        raise ModelError(
            f"{kind}: no linear layer of this base matches targets {targets!r}. "
            f"Its layers end in: {', '.join(endings) or 'none'}."
        )
    return tuple(found)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, StackedLoraLinear))


class _StackedUpdate(torch.autograd.Function):
    """y = x W^T + b + scale (mask * x) A B in three products, with gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: Tensor, mask: Any
    ) -> Tensor:
        members = a.shape[0]
        a_PIR, b_PRO = a.to(x_NI.dtype), (b * scale[:, None, None]).to(x_NI.dtype)
        y_NO = F.linear(x_NI, weight, bias)
        x_PMI = x_NI.view(members, -1, x_NI.shape[1])
        seen_PMI = x_PMI if mask is None else x_PMI * mask
        h_PMR = _bmm(seen_PMI, a_PIR)
        _add_bmm(y_NO.view(members, -1, y_NO.shape[1]), h_PMR, b_PRO)
        ctx.save_for_backward(seen_PMI, weight, a_PIR, b_PRO, h_PMR, scale, mask)
        ctx.wide = a.dtype
        return y_NO

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen_PMI, weight, a_PIR, b_PRO, h_PMR, scale, mask = ctx.saved_tensors
        dy_NO = gradients[0].contiguous()
        dy_PMO = dy_NO.view(a_PIR.shape[0], -1, dy_NO.shape[1])
        dh_PMR = _bmm(dy_PMO, b_PRO.transpose(1, 2))
        db = _bmm(h_PMR.transpose(1, 2), dy_PMO).to(ctx.wide) * scale[:, None, None]
        da = _bmm(seen_PMI.transpose(1, 2), dh_PMR).to(ctx.wide)
        dx_NI = None
        if ctx.needs_input_grad[0]:
            dx_NI = dy_NO @ weight
            dx_PMI = dx_NI.view(*seen_PMI.shape)
            if mask is None:
                _add_bmm(dx_PMI, dh_PMR, a_PIR.transpose(1, 2))
            else:
                dx_PMI.addcmul_(_bmm(dh_PMR, a_PIR.transpose(1, 2)), mask)
        return dx_NI, None, None, da, db, None, None


_update: Any = _StackedUpdate.apply


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    """A batched product; one member goes through the plain one, which has the faster kernels."""
    return (left[0] @ right[0])[None] if left.shape[0] == 1 else torch.bmm(left, right)


def _add_bmm(into: Tensor, left: Tensor, right: Tensor) -> None:
    if into.shape[0] == 1:
        into[0].addmm_(left[0], right[0])
    else:
        into.baddbmm_(left, right)


class StackedLoraLinear(nn.Module):
    """A frozen linear layer with the low-rank updates of P members, for rows sorted by member."""

    def __init__(self, frozen: nn.Linear, weight: Tensor, path: str, stack: "LoraStack") -> None:
        """`weight`: the layer's own, or what PiSSA leaves of it."""
        super().__init__()
        self.frozen, self.path = frozen, path
        self.kept = weight
        self.stack = stack
        self.in_features, self.out_features = frozen.in_features, frozen.out_features

    @property
    def weight(self) -> Tensor:
        return self.kept

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for rows [A * S, ..., I]."""
        stack = self.stack
        x_NI = stack.by_member(x, self.path).flatten(0, 1)
        a, b, scale = stack.active(f"{self.path}.A"), stack.active(f"{self.path}.B"), stack.active_scale
        mask = stack.mask(self.path, x_NI.shape[0] // a.shape[0], self.in_features, x.dtype)
        if not stack.dora:
            y_NO: Tensor = _update(x_NI, self.kept, self.frozen.bias, a, b, scale, mask)
            return y_NO.view(*x.shape[:-1], self.out_features)
        y_NO = _update(x_NI, self.kept, None, a, b, scale, mask)
        length_AO = stack.active(f"{self.path}.m") / _row_norms(self.kept, a, b, scale)
        y_AMO = y_NO.view(a.shape[0], -1, self.out_features) * length_AO[:, None].to(x.dtype)
        y_AMO = y_AMO if self.frozen.bias is None else y_AMO + self.frozen.bias
        return y_AMO.view(*x.shape[:-1], self.out_features)


@torch.no_grad()
def _row_norms(weight_OI: Tensor, a_AIR: Tensor, b_ARO: Tensor, scale_A: Tensor) -> Tensor:
    """Lengths [A, O] of the rows of W + scale (A B)^T, without making that matrix; constant for the gradient."""
    wide_OI = weight_OI.to(a_AIR.dtype)
    update_ARO = b_ARO * scale_A[:, None, None]
    cross_AO = ((wide_OI @ a_AIR) * update_ARO.transpose(1, 2)).sum(-1)
    own_AO = (update_ARO * ((a_AIR.transpose(1, 2) @ a_AIR) @ update_ARO)).sum(1)
    squared_AO = wide_OI.square().sum(1) + 2 * cross_AO + own_AO
    return squared_AO.clamp_min(1e-12).sqrt()


class LoraStack(Stack):
    """P LoRA members on the linear layers of one base (Hu et al. 2021, arXiv 2106.09685)."""

    kind = "lora"

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Member],
        *,
        rank: int,
        targets: Sequence[str],
        dora: bool = False,
        start: Start = "random",
        b_rate: float = 1.0,
        trained: bool = False,
    ) -> None:
        """Nothing is attached yet. `targets` are paths; `b_rate` multiplies the learning rate of B (LoRA+).

        `trained`: tensors are there already, whose rank PiSSA has doubled.

        Raises:
            ModelError: a target is not a linear layer of this model, or the rank is larger than one of its sides.
        """
        self.rank, self.dora, self.b_rate = rank, dora, b_rate
        self.layers = {path: linear_of(model, path, self.kind) for path in targets}
        for path, layer in self.layers.items():
            if not trained and rank > min(layer.in_features, layer.out_features):
                raise ModelError(
                    f"lora: rank {rank} is larger than layer '{path}' "
                    f"({layer.in_features} by {layer.out_features}). Lower `rank`."
                )
        super().__init__(members, next(iter(self.layers.values())).weight.device)
        self.pissa = start == "pissa"
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`<path>.A` [I, R], `<path>.B` [R, O] and, for DoRA, `<path>.m` [O]."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path, layer in self.layers.items():
            shapes[f"{path}.A"] = (layer.in_features, self.rank)
            shapes[f"{path}.B"] = (self.rank, layer.out_features)
            if self.dora:
                shapes[f"{path}.m"] = (layer.out_features,)
        return shapes

    def initial(self, name: str, member: Member) -> Tensor:
        """A uniform in +-1/sqrt(I) as in PEFT and B zero, or both from the largest singular values; m the lengths."""
        path, part = name[:-2], name[-1]
        layer = self.layers[path]
        if part == "m":
            lengths_O: Tensor = torch.linalg.vector_norm(layer.weight.detach().float(), dim=1)
            return lengths_O
        if self.pissa:
            a_IR, b_RO = self._principal(path)
            return a_IR if part == "A" else b_RO / member.scale
        if part == "B":
            return torch.zeros(self.rank, layer.out_features)
        bound = 1.0 / math.sqrt(layer.in_features)
        rng = torch.Generator().manual_seed(derive(member.seed, "lora", path))
        own = self.rank if member.rank is None else member.rank
        a_IR = torch.empty(layer.in_features, own).uniform_(-bound, bound, generator=rng)
        return F.pad(a_IR, (0, self.rank - own))  # with B zero, too, they get no gradient

    def _principal(self, path: str) -> tuple[Tensor, Tensor]:
        if path not in self._parts:
            self._parts[path] = principal_parts(self.layers[path].weight, self.rank)
        return self._parts[path]

    def padding(self, member: Member) -> int:
        short = 0 if member.rank is None else self.rank - member.rank
        return short * sum(layer.in_features + layer.out_features for layer in self.layers.values())

    def decays(self, name: str) -> bool:
        return not name.endswith(".m")

    def rate(self, name: str) -> float:
        return self.b_rate if name.endswith(".B") else 1.0

    def attach(self, model: nn.Module) -> nn.Module:
        for path, layer in self.layers.items():
            weight: Tensor = layer.weight
            if self.pissa:
                a_IR, b_RO = self._principal(path)
                weight = (weight.detach().float() - (a_IR @ b_RO).t()).to(weight.dtype)
            replace_module(model, path, StackedLoraLinear(layer, weight, path, self))
        return model

    def detach(self, model: nn.Module) -> None:
        """Put the frozen layers back: the very modules that were there before."""
        for path, layer in self.layers.items():
            replace_module(model, path, layer)


def principal_parts(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [I, R] and B [R, O] with (A B)^T the best approximation of the weight of this rank (Meng et al. 2024)."""
    u_OK, s_K, v_KI = torch.linalg.svd(weight_OI.detach().float(), full_matrices=False)
    root_R = s_K[:rank].sqrt()
    return v_KI[:rank].t() * root_R, (u_OK[:, :rank] * root_R).t().contiguous()


@dataclass(frozen=True, kw_only=True)
class LoraForm:
    """The part of PEFT's LoRA config that changes what a member answers."""

    peft_type: ClassVar[str] = "LORA"

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    dora: bool = False
    turned: bool = False
    """Whether the base keeps its layers as [inputs, outputs]; PEFT wants to know, nothing here depends on it."""

    @property
    def scale(self) -> float:
        """Of the update: alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> LoraStack:
        member = Member(scale=self.scale)
        return LoraStack(model, [member], rank=self.rank, targets=_paths(tensors), dora=self.dora, trained=True)

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "bias": "none",
            "fan_in_fan_out": self.turned,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "modules_to_save": None,
            "r": self.rank,
            "target_modules": _paths(tensors),
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        }

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for path in _paths(tensors):
            named[f"{PREFIX}{path}.lora_A.weight"] = tensors[f"{path}.A"].t()
            named[f"{PREFIX}{path}.lora_B.weight"] = tensors[f"{path}.B"].t()
            if self.dora:
                named[f"{PREFIX}{path}.lora_magnitude_vector"] = tensors[f"{path}.m"]
        return named

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        form = cls._from_config(config)
        parts = {"lora_A.weight": ".A", "lora_B.weight": ".B"}
        if form.dora:
            parts |= {"lora_magnitude_vector": ".m", "lora_magnitude_vector.weight": ".m"}
        tensors: dict[str, Tensor] = {}
        for key, tensor in stored.items():
            ending = next((part for part in parts if key.endswith(f".{part}")), None)
            if ending is None or not key.startswith(PREFIX):
                raise ValueError(
                    f"holds '{key}', which is no LoRA weight of a linear layer. Only plain LoRA adapters are read."
                )
            name = key[len(PREFIX) : -len(ending) - 1] + parts[ending]
            tensors[name] = tensor if name.endswith(".m") else tensor.t().contiguous()
        for path in sorted({name[:-2] for name in tensors}):
            a, b = tensors.get(f"{path}.A"), tensors.get(f"{path}.B")
            if a is None or b is None or a.shape[-1] != form.rank or b.shape[0] != form.rank:
                raise ValueError(
                    f"layer '{path}' should have A and B of rank {form.rank}, "
                    f"found {_shape(a)} and {_shape(b)}. Save the adapter again."
                )
        return tensors, form

    @classmethod
    def _from_config(cls, config: Mapping[str, Any]) -> Self:
        for key, meaning in _MUST_BE_EMPTY.items():
            if config.get(key):
                raise ValueError(f"uses `{key}` ({meaning}), which is not read here. Train without it.")
        if config.get("bias", "none") != "none":
            raise ValueError(f"trains biases (`bias`: {config['bias']!r}), which are not read here.")
        rank, alpha = config.get("r"), config.get("lora_alpha", 8)
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise ValueError(f"says `r` {rank!r} and `lora_alpha` {alpha!r}; both must be numbers above 0.")
        return cls(
            rank=rank,
            alpha=float(alpha),
            rslora=bool(config.get("use_rslora", False)),
            dropout=float(config.get("lora_dropout", 0.0)),
            dora=bool(config.get("use_dora", False)),
            turned=bool(config.get("fan_in_fan_out", False)),
        )


def _paths(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted({name[:-2] for name in tensors})


def _shape(tensor: Tensor | None) -> object:
    return None if tensor is None else tuple(tensor.shape)
