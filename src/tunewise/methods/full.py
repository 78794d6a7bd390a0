"""Train every weight of the base."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.trained import Bench, TrainedBracket, TrainedConfig, epochs_for, nothing_to_learn, trained_cost
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.training.loop import Loop
from tunewise.training.population import WORK_FULL, split_head
from tunewise.training.precision import working_dtype
from tunewise.training.whole import FullPopulation
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class FullConfig(TrainedConfig):
    """How all weights are trained."""

    rung: ClassVar[str] = "full"

    learning_rate: float = 1e-4
    base_dropout: bool = False
    """Whether the base's own dropout, at the rates it was pre-trained with, is on in training."""


SEARCHED: Parameters = {
    "learning_rate": Real(1e-5, 5e-4, log=True),
    "weight_decay": Choice((0.0, 0.01, 0.1)),
    "batch_size": Choice((32, 16)),
}


class Full:
    r"""Fine-tuning of all weights with a linear head (Devlin et al. 2019, arXiv 1810.04805).

    $\min_{\theta, W, b} \sum_i w_{y_i} (-\log \mathrm{softmax}(W f_\theta(x_i) + b)_{y_i})$ from the pre-trained
    $\theta$.
    """

    name = "full"
    families = frozenset({"encoder", "masked"})
    kinds = frozenset({"classify"})
    Config = FullConfig
    parameters = SEARCHED
    trained = True

    def skip(self, context: Context) -> str | None:
        return nothing_to_learn("full", context)

    def default(self, context: Context) -> FullConfig:
        plain = FullConfig()
        epochs = epochs_for(context, batch_size=plain.batch_size, work_per_token=WORK_FULL, steps=900, least=3, most=20)
        return dataclasses.replace(plain, epochs=epochs)

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[FullConfig]:
        default = self.default(context)
        proposed = [dataclasses.replace(default, **values) for values in space.ask(self.parameters, n)]
        return [config for config in proposed if config != default]

    def cost(self, context: Context, config: FullConfig) -> Cost:
        numbers = context.base.info.parameters
        return trained_cost(
            context, config, work_per_token=WORK_FULL, adapted_numbers=numbers, copied_numbers=2 * numbers
        )

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        bench = Bench(context)
        dtype = working_dtype(context.task.dtype, context.base)
        used = np.unique(np.concatenate([*bench.train.tokens.ids, *bench.race.tokens.ids]))

        def build(indices: Sequence[int]) -> Loop:
            (config,) = (configs[i] for i in indices)
            population = FullPopulation(
                context.base,
                bench.head(config),
                used_tokens=used,
                dtype=dtype,
                seed=context.seed,
                base_dropout=config.base_dropout,
                unit_length=bench.unit_length(config),
            )
            return bench.loop(population, [config])

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            weights, weight_LH, bias_L = split_head(tensors)
            return AdaptedPredictor(
                base=context.base,
                labels=context.labels,
                policy=context.task.truncation,
                weight_LH=weight_LH.float().cpu().numpy(),
                bias_L=bias_L.float().cpu().numpy(),
                tensors=weights,
                adapter=None,
                unit_length=bench.unit_length(configs[index]),
            )

        groups = [[i] for i in range(len(configs))]
        return TrainedBracket(bench=bench, build=build, finish=finish, groups=groups)
