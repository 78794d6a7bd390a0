"""Train low-rank updates of the frozen base, many candidates at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tunewise.adapters.lora import LoraForm, LoraMember, Targets, layer_of, target_layers
from tunewise.adapters.peft_format import PeftLora
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.trained import (
    Bench,
    TrainedBracket,
    TrainedConfig,
    choose_population,
    epochs_for,
    nothing_to_learn,
    trained_cost,
)
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.training.adapted import LoraPopulation
from tunewise.training.loop import Loop
from tunewise.training.population import WORK_ADAPTER, split_head
from tunewise.training.precision import cast_base, working_dtype
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class LoraConfig(TrainedConfig):
    """How a low-rank update is shaped and trained."""

    rung: ClassVar[str] = "lora"

    learning_rate: float = 1e-3
    """About ten times what `full` likes, nearly whatever the rank (Schulman et al. 2025, "LoRA Without Regret")."""
    rank: int = 8
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""
    dropout: float = 0.0
    """Share of a layer's inputs that the update does not see in a step."""
    targets: Targets = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ConfigError(f"lora: `rank` must be 1 or more, got {self.rank}. For no update use 'linear_probe'.")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"lora: `alpha` must be a finite number above 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora: `dropout` must lie between 0 and 1 (1 not included), got {self.dropout}.")

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the members of one stack have in common."""
        return self.rank, self.targets, self.epochs, self.batch_size, self.class_weights, self.head_init

    @property
    def peft(self) -> PeftLora:
        return PeftLora(rank=self.rank, alpha=self.alpha, rslora=self.rslora, dropout=self.dropout)

    def member(self, seed: int) -> LoraMember:
        return LoraMember(scale=self.peft.scale, seed=seed, dropout=self.dropout)


SEARCHED: Parameters = {
    "learning_rate": Real(1e-4, 5e-3, log=True),
    "dropout": Choice((0.0, 0.1)),
    "batch_size": Choice((32, 16)),
    "rank": Choice((8, 16, 32)),
}


class Lora:
    r"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of every linear layer, and a linear head.

    $y = W_0 x + b + \tfrac{\alpha}{r} B A x$ with $W_0, b$ frozen, $A \in R^{r \times i}$ random and
    $B \in R^{o \times r}$ zero at the start.
    """

    name = "lora"
    families = frozenset({"encoder", "masked"})
    kinds = frozenset({"classify"})
    Config = LoraConfig
    parameters = SEARCHED
    trained = True

    def skip(self, context: Context) -> str | None:
        return nothing_to_learn("lora", context)

    def default(self, context: Context) -> LoraConfig:
        plain = LoraConfig()
        epochs = epochs_for(
            context, batch_size=plain.batch_size, work_per_token=WORK_ADAPTER, steps=1200, least=4, most=30
        )
        return dataclasses.replace(plain, epochs=epochs)

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[LoraConfig]:
        default = self.default(context)
        proposed = [dataclasses.replace(default, **values) for values in space.ask(self.parameters, n)]
        return [config for config in proposed if config != default]

    def cost(self, context: Context, config: LoraConfig) -> Cost:
        model = context.base.model
        sides = sum(sum(layer_of(model, path).weight.shape) for path in target_layers(model, config.targets))
        return trained_cost(
            context,
            config,
            work_per_token=WORK_ADAPTER,
            adapted_numbers=config.rank * sides,
            copied_numbers=context.base.info.parameters,
        )

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        bench = Bench(context)
        base = cast_base(context.base, working_dtype(context.task.dtype, context.base))

        def build(indices: Sequence[int]) -> Loop:
            chosen: list[LoraConfig] = [configs[i] for i in indices]
            first = chosen[0]
            population = LoraPopulation(
                base,
                LoraForm(rank=first.rank, targets=target_layers(base.model, first.targets)),
                [config.member(context.seed) for config in chosen],
                bench.head(first),
                unit_length=bench.unit_length(first),
            )
            return bench.loop(population, chosen)

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            config: LoraConfig = configs[index]
            updates, weight_LH, bias_L = split_head(tensors)
            return AdaptedPredictor(
                base=context.base,
                labels=context.labels,
                policy=context.task.truncation,
                weight_LH=weight_LH.float().cpu().numpy(),
                bias_L=bias_L.float().cpu().numpy(),
                tensors={name: tensor.float() for name, tensor in updates.items()},
                adapter=config.peft,
                unit_length=bench.unit_length(config),
            )

        if context.layout:
            return TrainedBracket(bench=bench, build=build, finish=finish, groups=context.layout)
        groups: list[list[int]] = []
        notes: list[str] = []
        for alike in _by_structure(configs):
            chosen, why = choose_population(build, alike)
            groups += chosen
            notes.append(f"lora: {why}")
        return TrainedBracket(bench=bench, build=build, finish=finish, groups=groups, notes=notes)


def _by_structure(configs: Sequence[LoraConfig]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, config in enumerate(configs):
        groups.setdefault(config.structure, []).append(i)
    return list(groups.values())
