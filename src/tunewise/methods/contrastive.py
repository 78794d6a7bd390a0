"""Tune the encoder on pairs of texts, then fit a head on the vectors it gives: few-shot tuning as SetFit does it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.bench import LabelBench, adapted_predictor, nothing_to_learn, probe_c
from tunewise.methods.linear_probe import fit_head
from tunewise.methods.trained import TrainedBracket
from tunewise.methods.trained_config import TrainedConfig
from tunewise.methods.training_cost import numbers_of, trained_cost
from tunewise.predictors.base import Predictor
from tunewise.training.batches import steps_per_epoch
from tunewise.training.contrastive import MOST_HEAD_ROWS, ContrastiveLoop, PairLoss, Pairs
from tunewise.training.loop import Loop, Plan
from tunewise.training.population import WORK_FULL, HeadStart
from tunewise.training.precision import working_dtype
from tunewise.training.stopping import evaluation_steps
from tunewise.training.whole import FullPopulation
from tunewise.types import Cost

LEAST_STEPS, MOST_STEPS = 6, 400
"""Optimiser steps of the default: with few rows, and at most, however many rows there are."""
PASSES = 8
"""Passes of the default over train, between those bounds."""
PLAIN_RATE_STEPS = 32
"""Steps from which on a run takes the plain rate; a quarter of them take twice as much.

Measured on train and dev parts, accuracy over the same draws. With 8 rows a label: SST-2, five draws, 6 steps at 1e-4
64.6, 8 at 5e-5 64.4 (16 and 32 steps were no better on three); AG News, three draws, 4 steps at 1e-4 81.9, 8 at 5e-5
81.7. With 64: SST-2, two draws, 40 steps at 5e-5 80.8, 12 steps 77.8.
"""
EVALUATIONS = 4
_OF_NO_USE = {"label_smoothing": 0.0, "consistency": 0.0, "class_weights": "none", "head_init": "probe"}
"""Settings of other trained rungs that pairs have no use for, and the value each must keep."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TrainedConfig):
    """How the encoder is tuned on pairs, and how freely the head may fit."""

    rung: ClassVar[str] = "contrastive"

    learning_rate: float = 5e-5
    """Steps hold many pairs, so that they may be longer than SetFit's, whose rate is 2e-5; in short runs twice this."""
    loss: PairLoss = "cosine"
    """"cosine": a cosine of 1 within a label, 0 across, as SetFit; "supcon": the same label first (Khosla et al. 2020).
    """
    temperature: float = 0.1
    """Of "supcon": lower looks harder at the nearest rows of other labels."""
    c: float = 1.0
    """Inverse strength of the head's L2 penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "c"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"contrastive: `{name}` must be a finite number above 0, got {getattr(self, name)}.")
        if self.loss not in ("cosine", "supcon"):
            raise ConfigError(f"contrastive: `loss` must be 'cosine' or 'supcon', got {self.loss!r}.")
        if self.batch_size < 4:
            raise ConfigError(
                f"contrastive: `batch_size` must be 4 or more, two rows of two labels, got {self.batch_size}."
            )
        for name, only in _OF_NO_USE.items():
            if getattr(self, name) != only:
                raise ConfigError(
                    f"contrastive: `{name}` has no use where pairs are compared and the head is fitted, "
                    f"got {getattr(self, name)!r}. Leave it at {only!r}."
                )

    def plan(self, seed: int) -> Plan:
        """With fewer evaluations than other rungs have, since each reads train as well."""
        return dataclasses.replace(super().plan(seed), evaluations=EVALUATIONS)

    def steps(self, rows: int) -> int:
        """Optimiser steps on this many rows."""
        return Plan(epochs=self.epochs, batch_size=self.batch_size, seed=0).horizon(rows)


SEARCHED: Parameters = {
    "learning_rate": Real(1e-5, 4e-4, log=True),
    "loss": Choice(("cosine", "supcon")),
    "batch_size": Choice((32, 16, 64)),
}


class Contrastive:
    r"""Contrastive tuning of all weights and a head on the tuned vectors (Tunstall et al. 2022, arXiv 2209.11055).

    $\min_\theta \tfrac12 \overline{(1 - \cos(f_\theta(x_i), f_\theta(x_j)))^2}_{y_i = y_j} + \tfrac12
    \overline{\cos(f_\theta(x_i), f_\theta(x_j))^2}_{y_i \neq y_j}$ over all pairs of a step, whose rows are drawn
    evenly from the labels; then logistic regression on $f_\theta(x) / \|f_\theta(x)\|$ of at most `MOST_HEAD_ROWS`.

    Made for few rows: the default reads train `PASSES` times, in `MOST_STEPS` at most, so that from some thousand rows
    on it costs no more however many there are, and in the end sees only a part of them.
    """

    name = "contrastive"
    families = frozenset({"encoder", "masked", "seq2seq"})
    kinds = frozenset({"classify"})
    Config = ContrastiveConfig
    parameters = SEARCHED
    trained = True
    default_share = 1 / 8

    def skip(self, context: Context) -> str | None:
        nothing = nothing_to_learn(self.name, context)
        if nothing is not None:
            return nothing
        if np.bincount(context.target_indices(context.fold.train)).max() < 2:
            return "contrastive: no label has two training rows; there is no pair to bring together."
        return None

    def default(self, context: Context) -> ContrastiveConfig:
        plain, rows = _for_labels(len(context.labels)), len(context.fold.train)
        per_epoch = steps_per_epoch(rows, plain.batch_size)
        steps = min(MOST_STEPS, max(LEAST_STEPS, PASSES * rows // plain.batch_size))
        share = self.default_share * context.work / len(context.folds)
        affordable = (share - self._evaluation_work(context, steps)) / max(1, self._step_work(context, plain))
        steps = min(steps, max(LEAST_STEPS, int(affordable)))
        rate = plain.learning_rate * min(2.0, max(1.0, (PLAIN_RATE_STEPS / steps) ** 0.5))
        return dataclasses.replace(plain, epochs=steps / per_epoch, learning_rate=rate)

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[ContrastiveConfig]:
        default = self.default(context)
        return [dataclasses.replace(default, **values) for values in space.ask(self.parameters, n)]

    def cost(self, context: Context, config: ContrastiveConfig) -> Cost:
        numbers = numbers_of(context)
        whole = trained_cost(
            context, config, work_per_token=WORK_FULL, adapted_numbers=numbers, copied_numbers=2 * numbers
        )
        steps = config.steps(len(context.fold.train))
        work = round(steps * self._step_work(context, config)) + self._evaluation_work(context, steps)
        return dataclasses.replace(whole, work=work, seconds=work * context.seconds_per_work)

    def _step_work(self, context: Context, config: ContrastiveConfig) -> float:
        """Of one step: each of its rows is encoded once."""
        rows = len(context.fold.train)
        return min(config.batch_size, rows) * context.train_tokens / max(1, rows) * WORK_FULL

    def _evaluation_work(self, context: Context, steps: int) -> int:
        """Of all evaluations in this many steps: the rows that the head is fitted on, and those that are watched."""
        fold = context.fold
        head = context.train_tokens * min(1.0, MOST_HEAD_ROWS / max(1, len(fold.train)))
        times = len(evaluation_steps(steps, EVALUATIONS)) if fold.race else 0
        return round(times * (head + context.watched_tokens)) + context.closing_tokens

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        bench = LabelBench(context)
        dtype = working_dtype(context.task.dtype, context.base)
        used = np.unique(np.concatenate([*bench.train.tokens.ids, *bench.race.tokens.ids]))
        labels = len(context.labels)

        def build(indices: Sequence[int]) -> Loop:
            (config,) = (configs[i] for i in indices)
            population = FullPopulation(
                context.base, HeadStart(labels=labels), used_tokens=used, dtype=dtype, unit_length=True
            )
            return ContrastiveLoop(
                population,
                bench.objective(config),
                bench.plan(config),
                config.settings,
                pairs=Pairs(loss=config.loss, temperature=config.temperature),
                fit_head=lambda feature_EH, target_E: fit_head(feature_EH, target_E, labels, config.c)[:2],
            )

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            return adapted_predictor(context, tensors, unit_length=True)

        return TrainedBracket(bench=bench, build=build, finish=finish, groups=[[i] for i in range(len(configs))])


def _for_labels(labels: int) -> ContrastiveConfig:
    """What suits this many labels.

    Where a step cannot hold two rows of each, labels are many and some of them near, and a cosine of 0 across asks too
    much. Measured on BANKING77, 8 rows a label, one draw: frozen 82.0 %, "cosine" 80.0, "supcon" 82.4 to 84.4.
    """
    c = probe_c(labels)
    if 2 * labels <= ContrastiveConfig.batch_size:
        return ContrastiveConfig(c=c)
    return ContrastiveConfig(c=c, loss="supcon", batch_size=64)
