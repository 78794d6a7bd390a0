"""The last two steps of a run: choose among rung winners on dev, then, and only then, measure them on held_out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.config import Task
from tunewise.evaluation.choice import Choice, Contender, choose
from tunewise.evaluation.compare import holm, paired
from tunewise.evaluation.cost import latency_ms
from tunewise.evaluation.evaluate import wanted
from tunewise.evaluation.intervals import interval
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.ordinal import ordinal_scores
from tunewise.methods import cost_rank
from tunewise.predictors.base import Predictor
from tunewise.search.climb import Rung
from tunewise.seeding import generator
from tunewise.types import Example, Prediction, Score

LATENCY_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A rung's winner on one set."""

    rung: Rung
    predictions: tuple[Prediction, ...]
    statistics: np.ndarray
    score: Score
    also: tuple[Score, ...] = ()
    """Of an ordered task: the metrics that are reported whichever one it is chosen by."""


def measure(
    rung: Rung,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    task: Task,
    labels: Sequence[str],
    *,
    on: str,
    ordered: bool = False,
) -> Measured:
    """Score of a rung's winner on these examples."""
    metric = METRICS.get(task.metric)
    targets = wanted(examples)
    table = metric.statistics(targets, predictions, labels)
    score = interval(
        metric,
        table,
        n_labels=len(labels),
        clusters=clusters_of(examples),
        level=task.level,
        rng=generator(task.seed, on),
    )
    also = (
        ordinal_scores(
            targets,
            predictions,
            labels,
            clusters=clusters_of(examples),
            level=task.level,
            rng=generator(task.seed, on, "ordinal"),
        )
        if ordered
        else ()
    )
    return Measured(rung=rung, predictions=tuple(predictions), statistics=table, score=score, also=tuple(also))


def choose_rung(
    winners: Sequence[Measured],
    examples: Sequence[Example],
    task: Task,
    labels: Sequence[str],
    base_size: Mapping[str, int],
    seed_sd: Mapping[str, float],
    optimism: Mapping[str, float],
) -> Choice:
    """The cheapest winner not inferior to the best by more than the task's margin.

    Cheaper is the lower rung of the ladder, and on one rung the smaller base (`base_size`, parameters by name).
    `seed_sd` is the spread of the score over seeds, and `optimism` what it owes to being picked by these rows, by rung,
    where they were measured.
    """
    contenders = [
        Contender(
            name=winner.rung.name,
            cost_rank=(cost_rank(winner.rung.method.name), base_size[winner.rung.base]),
            statistics_EK=winner.statistics,
            seed_sd=seed_sd.get(winner.rung.name, 0.0),
            optimism=optimism.get(winner.rung.name, 0.0),
        )
        for winner in winners
    ]
    return choose(
        contenders,
        METRICS.get(task.metric),
        n_labels=len(labels),
        margin=task.margin,
        clusters=clusters_of(examples),
        rng=generator(task.seed, "choice"),
    )


def versus_best(
    measured: Sequence[Measured], examples: Sequence[Example], task: Task, labels: Sequence[str]
) -> list[dict[str, float | str]]:
    """Paired difference of each to the best of them, with p-values adjusted by Holm; the best compares to itself."""
    metric = METRICS.get(task.metric)
    sign = 1.0 if metric.greater_is_better else -1.0
    best = max(measured, key=lambda m: sign * m.score.value)
    differences = [
        paired(
            metric,
            m.statistics,
            best.statistics,
            n_labels=len(labels),
            clusters=clusters_of(examples),
            level=task.level,
            rng=generator(task.seed, "versus"),
        )
        for m in measured
    ]
    others = [i for i, m in enumerate(measured) if m is not best]
    adjusted = dict(zip(others, holm([differences[i].p for i in others]), strict=True))
    return [
        {"on": "held_out", "difference": d.difference, "low": d.low, "high": d.high, "p_adjusted": adjusted.get(i, 1.0)}
        for i, d in enumerate(differences)
    ]


def latency(predictor: Predictor, examples: Sequence[Example]) -> float:
    """Median milliseconds for one example at a time, as it is when the right answer is not known."""
    predict_one: Callable[[Example], object] = lambda example: predictor.predict([example])  # noqa: E731
    asked = [dataclasses.replace(example, target=None, references=()) for example in examples[:LATENCY_EXAMPLES]]
    return latency_ms(predict_one, asked, repeats=1)


def clusters_of(examples: Sequence[Example]) -> list[str | None] | None:
    """The cluster of each example, or None where there are none."""
    found = [example.cluster for example in examples]
    return found if any(cluster is not None for cluster in found) else None
