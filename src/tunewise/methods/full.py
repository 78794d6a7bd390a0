"""Train every weight of the base."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tunewise.errors import ConfigError, ModelError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.top_layers import TopLayersConfig, lower_blocks, on_share, with_kept_states
from tunewise.methods.trained import TrainedBracket
from tunewise.methods.trained_config import with_epochs
from tunewise.methods.training_cost import numbers_of, trained_cost
from tunewise.methods.writing import bench_for, cannot_learn
from tunewise.predictors.base import Predictor
from tunewise.training.estimate import ACTIVATIONS_PER_LAYER
from tunewise.training.frozen import LowerBlocks, blocks_of
from tunewise.training.loop import Loop
from tunewise.training.population import WORK_FORWARD, WORK_FULL
from tunewise.training.precision import working_dtype
from tunewise.training.whole import FullPopulation
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class FullConfig(TopLayersConfig):
    """How all weights are trained, or those of the last blocks."""

    rung: ClassVar[str] = "full"

    learning_rate: float = 1e-4
    base_dropout: bool = False
    """Whether the base's own dropout, at the rates it was pre-trained with, is on in training."""
    layer_decay: float = 1.0
    """A block learns at this share of the rate of the block above, the embeddings slowest, the head at the whole rate.

    Below 1 where rows are few: what lower blocks know of language is worth keeping (Howard and Ruder 2018; Sun et al.
    2019, arXiv 1905.05583: 0.95)."""
    checkpointing: bool = False
    """Compute every block twice instead of keeping what the backward pass needs of it (Chen et al. 2016): memory for
    one block instead of all, a third more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"full: `layer_decay` must be above 0 and at most 1, got {self.layer_decay}.")


SEARCHED: Parameters = {
    "learning_rate": Real(1e-5, 5e-4, log=True),
    "weight_decay": Choice((0.0, 0.01, 0.1)),
    "batch_size": Choice((32, 16)),
    "layer_decay": Choice((1.0, 0.9)),
}


class Full:
    r"""Fine-tuning of all weights with a linear head (Devlin et al. 2019, arXiv 1810.04805).

    $\min_{\theta, W, b} \sum_i w_{y_i} (-\log \mathrm{softmax}(W f_\theta(x_i) + b)_{y_i})$ from the pre-trained
    $\theta$.
    """

    name = "full"
    families = frozenset({"causal", "encoder", "masked", "seq2seq"})
    kinds = frozenset({"classify", "generate"})
    Config = FullConfig
    parameters = SEARCHED
    trained = True
    several = True
    default_share = 1 / 5

    def skip(self, context: Context) -> str | None:
        return cannot_learn("full", context)

    def default(self, context: Context) -> FullConfig:
        return with_epochs(
            FullConfig(),
            context,
            work_per_token=WORK_FULL,
            steps=900,
            least=3,
            most=20,
            share=self.default_share,
        )

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[FullConfig]:
        default, searched = self.default(context), dict(self.parameters)
        try:
            blocks_of(context.base.model)
        except ModelError:
            del searched["layer_decay"]  # its blocks are not one list, so they have no order to decay along
        return [dataclasses.replace(default, **values) for values in space.ask(searched, n)]

    def cost(self, context: Context, config: FullConfig) -> Cost:
        numbers, kept_layers = numbers_of(context), None
        if config.top_layers is not None:
            upper = LowerBlocks(context.base, config.top_layers).upper(context.base.model)
            numbers = sum(own.numel() for _, block in upper for own in block.parameters())
            kept_layers = float(config.top_layers)
        if config.checkpointing:
            blocks = kept_layers or float(len(blocks_of(context.base.model)[1]))
            kept_layers = 1 + blocks / ACTIVATIONS_PER_LAYER  # one block at a time, and what enters each
        whole = trained_cost(
            context,
            config,
            work_per_token=WORK_FULL + WORK_FORWARD if config.checkpointing else WORK_FULL,
            adapted_numbers=numbers,
            copied_numbers=2 * numbers,
            kept_layers=kept_layers,
        )
        return with_kept_states(whole, context, config)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        by_reading = {config.prompt: bench_for(context, config) for config in configs}
        benches = {i: by_reading[config.prompt] for i, config in enumerate(configs)}
        bench = benches[0]
        dtype = working_dtype(context.task.dtype, context.base)
        rows = [own.tokens for each in by_reading.values() for own in (each.train, each.race)]
        used = np.unique(np.concatenate([ids for each in rows for ids in each.ids]))
        below = lower_blocks(bench.working(dtype), configs, rows)

        def build(indices: Sequence[int]) -> Loop:
            (index,) = indices
            config, bench = configs[index], benches[index]
            lower = None if config.top_layers is None else below[config.top_layers]
            population = FullPopulation(
                context.base,
                bench.head(config),
                used_tokens=used,
                dtype=dtype,
                seed=context.seed,
                base_dropout=config.base_dropout,
                unit_length=bench.unit_length(config),
                layer_decay=config.layer_decay,
                checkpointing=config.checkpointing,
                lower=lower,
            )
            return on_share(bench.loop(population, [config]), lower)

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            return benches[index].predictor(configs[index], tensors)

        groups = [[i] for i in range(len(configs))]
        notes = [f"full: {lower.note}" for lower in below.values() if lower.note]
        return TrainedBracket(bench=bench, build=build, finish=finish, groups=groups, notes=notes, benches=benches)
