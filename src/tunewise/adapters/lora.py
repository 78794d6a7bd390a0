"""Low-rank updates of frozen linear layers, stacked: P members share one base and one pass.

Axes: P members, S sequences of one member, T positions, M tokens of one member, N all rows of a call (P times M),
I inputs, O outputs, R rank.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewise.adapters.masks import dropout_mask, token_hash
from tunewise.errors import ModelError
from tunewise.seeding import derive

Targets = Literal["all", "attention", "feedforward"]


class NotStackable(Exception):
    """This base calls a layer with rows that belong to no single member; train its members one by one."""


@dataclass(frozen=True, kw_only=True)
class LoraForm:
    """What shapes a member: members of one stack share it."""

    rank: int
    targets: tuple[str, ...]
    """Paths of the linear layers that are adapted."""


@dataclass(frozen=True, kw_only=True)
class LoraMember:
    """What may differ between the members of a stack."""

    scale: float
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023)."""
    seed: int = 0
    dropout: float = 0.0


@dataclass
class Pass:
    """What a forward pass is about: which members, which sequences, which step."""

    active: tuple[int, ...]
    sequences: int
    """S, of one member."""
    positions: int
    step: int | None = None
    """The optimiser step, which dropout masks come from; None where nothing is dropped."""
    sequence_S: Tensor | None = None
    """Numbers of the sequences in the whole data set, for dropout masks."""
    hashes: dict[int, Tensor] = field(default_factory=dict)


def target_layers(model: nn.Module, targets: Targets | Sequence[str] = "all") -> tuple[str, ...]:
    """Paths of the linear layers inside the transformer's blocks (never pooler, embeddings or head).

    `targets` is "all", "attention", "feedforward", or endings of paths such as ("query", "value").

    Raises:
        ModelError: nothing matches.
    """
    blocks = [name for name, module in model.named_modules() if _is_linear(module) and re.search(r"\.\d+\.", name)]
    inside = {name: re.split(r"\.\d+\.", name, maxsplit=1)[1] for name in blocks}
    if targets == "all":
        found = blocks
    elif targets == "attention":
        found = [name for name in blocks if inside[name].startswith("att")]
    elif targets == "feedforward":
        found = [name for name in blocks if not inside[name].startswith("att")]
    else:
        found = [name for name in blocks if any(f".{name}".endswith(f".{ending}") for ending in targets)]
    if not found:
        endings = sorted({name.rsplit(".", 1)[-1] for name in blocks})
        raise ModelError(
            f"lora: no linear layer of this base matches targets {targets!r}. "
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

    def __init__(self, frozen: nn.Linear, path: str, stack: "LoraStack") -> None:
        super().__init__()
        self.frozen, self.path = frozen, path
        self.stack = stack
        self.in_features, self.out_features = frozen.in_features, frozen.out_features

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for rows [P * S, ..., I]."""
        now = self.stack.now
        whole = now.sequences * len(now.active)
        if len(now.active) > 1 and x.shape[0] not in (whole, whole * now.positions):
            raise NotStackable(
                f"lora: layer '{self.path}' is called with {x.shape[0]} rows where {len(now.active)} members with "
                f"{now.sequences} sequences each were expected; this base trains one member at a time."
            )
        x_NI = x.reshape(-1, self.in_features)
        a, b, scale = self.stack.active_tensors(self.path)
        mask = self.stack.mask(self.path, x_NI)
        y_NO: Tensor = _update(x_NI, self.frozen.weight, self.frozen.bias, a, b, scale, mask)
        return y_NO.view(*x.shape[:-1], self.out_features)


class LoraStack:
    """P LoRA members on the linear layers of one base (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, model: nn.Module, form: LoraForm, members: Sequence[LoraMember]) -> None:
        """Nothing is attached yet.

        Raises:
            ModelError: a target is not a linear layer of this model, or the rank is larger than one of its sides.
        """
        self.form = form
        self.layers = {path: layer_of(model, path) for path in form.targets}
        for path, layer in self.layers.items():
            if form.rank > min(layer.in_features, layer.out_features):
                raise ModelError(
                    f"lora: rank {form.rank} is larger than layer '{path}' "
                    f"({layer.in_features} by {layer.out_features}). Lower `rank`."
                )
        self.device = next(iter(self.layers.values())).weight.device
        self.tensors: dict[str, Tensor] = {}
        self.now = Pass(active=(0,), sequences=0, positions=0)
        self._members(members)

    def _members(self, members: Sequence[LoraMember]) -> None:
        self.members = list(members)
        self.scale_P = torch.tensor([member.scale for member in members], device=self.device)

    def start(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Fresh tensors `<path>.A` [P, I, R] and `<path>.B` [P, R, O]: A uniform in +-1/sqrt(I) as in PEFT, B zero.

        A member's start comes from its own seed and the path, so it does not depend on the others.
        """
        tensors = {}
        for path, layer in self.layers.items():
            bound = 1.0 / math.sqrt(layer.in_features)
            a_PIR = torch.empty(len(self.members), layer.in_features, self.form.rank, dtype=dtype)
            for a_IR, member in zip(a_PIR, self.members, strict=True):
                rng = torch.Generator().manual_seed(derive(member.seed, "lora", path))
                draw = torch.empty(a_IR.shape, dtype=torch.float32).uniform_(-bound, bound, generator=rng)
                a_IR.copy_(draw)
            tensors[f"{path}.A"] = a_PIR.to(self.device)
            tensors[f"{path}.B"] = torch.zeros(
                len(self.members), self.form.rank, layer.out_features, dtype=dtype, device=self.device
            )
        return tensors

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Use these tensors (named and shaped as in `start`).

        Raises:
            ModelError: a tensor is missing, left over, or of another shape.
        """
        expected = {}
        for path, layer in self.layers.items():
            expected[f"{path}.A"] = (len(self.members), layer.in_features, self.form.rank)
            expected[f"{path}.B"] = (len(self.members), self.form.rank, layer.out_features)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in expected.keys() | found.keys():
            if expected.get(name) != found.get(name):
                raise ModelError(
                    f"lora: tensor '{name}' should have shape {expected.get(name)}, found {found.get(name)}. "
                    "The adapter was made for another base."
                )
        self.tensors = dict(tensors)

    def attach(self, model: nn.Module) -> None:
        """Put the updates into `model`, whose own weights stay as they are."""
        for path, layer in self.layers.items():
            _replace(model, path, StackedLoraLinear(layer, path, self))

    def detach(self, model: nn.Module) -> None:
        """Put the frozen layers back: the very modules that were there before."""
        for path, layer in self.layers.items():
            _replace(model, path, layer)

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all members but these; `bind` their tensors next."""
        self._members([self.members[i] for i in indices])

    def active_tensors(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and scales of the members that take part in the present pass."""
        a, b, scale = self.tensors[f"{path}.A"], self.tensors[f"{path}.B"], self.scale_P
        if len(self.now.active) == len(self.members):
            return a, b, scale
        chosen = torch.tensor(self.now.active, device=a.device)
        return a[chosen], b[chosen], scale[chosen]

    def mask(self, path: str, x_NI: Tensor) -> Tensor | None:
        """Dropout mask [P, M, I] of the present pass, or None where nothing is dropped."""
        now = self.now
        chosen = [self.members[i] for i in now.active]
        if now.step is None or now.sequence_S is None or not any(member.dropout for member in chosen):
            return None
        tokens = x_NI.shape[0] // len(chosen)
        if tokens not in now.hashes:
            of_batch = tokens == now.sequences * now.positions
            # rows that are no tokens of the batch, such as relative positions, are numbered by themselves
            numbers = now.sequence_S if of_batch else torch.arange(tokens, device=x_NI.device)
            now.hashes[tokens] = token_hash(numbers, now.positions if of_batch else 1)
        return dropout_mask(
            now.hashes[tokens],
            x_NI.shape[1],
            rate_P=torch.tensor([member.dropout for member in chosen], device=x_NI.device),
            seeds=[member.seed for member in chosen],
            step=now.step,
            site=path,
            dtype=x_NI.dtype,
        )


def layer_of(model: nn.Module, path: str) -> nn.Linear:
    """The linear layer at this path.

    Raises:
        ModelError: there is none.
    """
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"lora: '{path}' is not a linear layer of {type(model).__name__}. The adapter was made for another base."
        )
    return layer


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
