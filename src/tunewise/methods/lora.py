"""Train low-rank updates of the frozen base, many candidates at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.adapters.lora import LoraForm, LoraStack, Start, Targets, principal_parts, target_layers
from tunewise.adapters.stack import Form, Member, linear_of, turned
from tunewise.errors import ConfigError
from tunewise.methods.base import Choice, Context, Parameters, Real, Space
from tunewise.methods.stacked import StackedConfig, StackedMethod
from tunewise.methods.top_layers import TopLayersConfig
from tunewise.training.precision import cast_base, working_dtype


@dataclass(frozen=True, kw_only=True)
class LoraConfig(StackedConfig, TopLayersConfig):
    """How a low-rank update is shaped and trained."""

    rung: ClassVar[str] = "lora"
    varies: ClassVar[frozenset[str]] = StackedConfig.varies | {"alpha", "rslora", "dropout"}

    learning_rate: float = 1e-3
    """About ten times what `full` likes, nearly whatever the rank (Schulman et al. 2025, "LoRA Without Regret")."""
    rank: int = 8
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023): for ranks above 32."""
    dropout: float = 0.0
    """Share of a layer's inputs that the update does not see in a step."""
    targets: Targets = "all"
    dora: bool = False
    """Train each row's length apart from its direction (Liu et al. 2024): for low ranks; slower."""
    start: Start = "random"
    """"pissa": from the largest singular values, which are taken out of the base (Meng et al. 2024): short runs."""
    b_rate: float = 1.0
    """B learns this many times faster than A (LoRA+, Hayou et al. 2024: 16, with a rate about 4 times lower)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ConfigError(
                f"{self.rung}: `rank` must be 1 or more, got {self.rank}. For no update use 'linear_probe'."
            )
        for name in ("alpha", "b_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{self.rung}: `{name}` must be a finite number above 0, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{self.rung}: `dropout` must lie between 0 and 1 (1 not included), got {self.dropout}.")

    @property
    def form(self) -> LoraForm:
        return LoraForm(rank=self.rank, alpha=self.alpha, rslora=self.rslora, dropout=self.dropout, dora=self.dora)

    def member(self, seed: int) -> Member:
        return Member(scale=self.form.scale, seed=seed, dropout=self.dropout, rank=self.rank)


SEARCHED: Parameters = {
    "learning_rate": Real(1e-4, 5e-3, log=True),
    "dropout": Choice((0.0, 0.1)),
    "batch_size": Choice((32, 16)),
    "rank": Choice((8, 16, 32)),
}


class Lora(StackedMethod):
    r"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of every linear layer, and a linear head.

    $y = W_0 x + b + \tfrac{\alpha}{r} B A x$ with $W_0, b$ frozen, $A \in R^{r \times i}$ random and
    $B \in R^{o \times r}$ zero at the start.
    """

    name = "lora"
    default_share = 1 / 6
    Config = LoraConfig
    parameters = SEARCHED

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        """Of ranks that every adapted layer has room for."""
        layers = [linear_of(context.base.model, path, self.name) for path in target_layers(context.base.model)]
        room = min(min(layer.in_features, layer.out_features) for layer in layers)
        return [config for config in super().propose(context, space, rng, n) if config.rank <= room]

    def structure(self, context: Context, config: LoraConfig) -> object:
        """On a GPU, whose time goes into starting kernels, ranks may differ: smaller ones are filled up with zeros.

        Not with PiSSA, whose base depends on the rank, nor with Adafactor, whose step depends on a matrix's size.
        """
        mixed = context.base.device.type != "cpu" and config.start == "random" and config.optimizer != "adafactor"
        return dataclasses.replace(config, rank=1).structure if mixed else config.structure

    def stack(self, context: Context, configs: Sequence[LoraConfig], model: nn.Module) -> LoraStack:
        first, rank = configs[0], max(config.rank for config in configs)
        return LoraStack(
            model,
            [config.member(context.seed) for config in configs],
            rank=rank,
            targets=target_layers(model, first.targets),
            dora=first.dora,
            start=first.start,
            b_rate=first.b_rate,
        )

    def finished(
        self, context: Context, config: LoraConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        form = dataclasses.replace(config.form, turned=turned(context.base.model))
        if config.start == "random":
            return {name: _of_rank(tensor, name, config.rank) for name, tensor in tensors.items()}, form
        # the start was taken from the weights that were trained on, whose rounding decides between equal directions
        base = cast_base(context.base, working_dtype(context.task.dtype, context.base))
        return since_start(tensors, form, base.model)


def _of_rank(tensor: Tensor, name: str, rank: int) -> Tensor:
    """Without what a stack of larger ranks filled up with zeros."""
    parts = {"A": tensor[..., :rank], "B": tensor[:rank]}
    return parts.get(name[-1], tensor).contiguous()


def since_start(tensors: Mapping[str, Tensor], form: LoraForm, model: nn.Module) -> tuple[dict[str, Tensor], LoraForm]:
    """What PiSSA trained as an update of the base as it is: A B - A0 B0, of twice the rank at the same scale."""
    double = LoraForm(
        rank=2 * form.rank,
        alpha=form.alpha * (2**0.5 if form.rslora else 2),
        rslora=form.rslora,
        dropout=form.dropout,
        dora=form.dora,
        turned=form.turned,
    )
    whole = {name: tensor for name, tensor in tensors.items() if name.endswith(".m")}
    for path in sorted({name[:-2] for name in tensors}):
        a, b = tensors[f"{path}.A"], tensors[f"{path}.B"]
        a_start, b_start = principal_parts(linear_of(model, path, "lora").weight, form.rank)
        whole[f"{path}.A"] = torch.cat([a, a_start.to(a)], dim=1)
        whole[f"{path}.B"] = torch.cat([b, -b_start.to(b) / form.scale], dim=0)
    return whole, double
