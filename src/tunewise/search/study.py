"""What the finalists' numbers are worth: refits with other seeds, and with less data.

The spread over seeds is the noise floor of every comparison; the curve over shares of train says whether more data
would help. Both take what the search has left for them, the most telling refits first; what does not fit is named.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunewise.config import from_plain
from tunewise.data.split import split_off, strata_of
from tunewise.evaluation.compare import paired
from tunewise.evaluation.metrics import METRICS
from tunewise.methods.base import Context, Fold
from tunewise.methods.folded import cost_of
from tunewise.search.arena import Arena
from tunewise.search.budget import Purse
from tunewise.search.climb import Rung
from tunewise.search.saved import race_predictions
from tunewise.search.trial import run_bracket
from tunewise.seeding import derive, generator
from tunewise.types import Finished

FINALISTS = 2
SHARES = (0.25, 0.5)
"""Of train, beside all of it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A finalist's score on dev after a refit."""

    share: float
    seed: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Studied:
    """One finalist's refits."""

    rung: str
    points: tuple[Point, ...]
    """The candidate as it was found first."""
    skipped: tuple[str, ...] = ()
    more_data: str | None = None
    """The answer to "would more data help?", with its evidence."""

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation of the score over seeds on all of train; None below two of them.

        Of the refits alone where there are two: the first fit was picked by its score, which stretches the spread.
        """
        scores = [point.score for point in self.points if point.share == 1.0]
        scores = scores[1:] if len(scores) > 2 else scores
        return statistics.stdev(scores) if len(scores) > 1 else None


@dataclass
class Study:
    """Refits of the best few rungs under what is left of the work."""

    arena: Arena
    purse: Purse
    context_of: Callable[[str, str, int], Context]
    studied: list[Studied] = field(default_factory=list)

    def run(self, rungs: Sequence[Rung]) -> list[Studied]:
        """One entry per finalist, best first; refits that crash or do not fit are named, never counted as scores."""
        sign = 1.0 if METRICS.get(self.arena.task.metric).greater_is_better else -1.0
        scored = [rung for rung in rungs if rung.best is not None and rung.method.name != "majority"]
        finalists = sorted(scored, key=lambda rung: -sign * rung.best.score if rung.best else 0.0)[:FINALISTS]
        plans = [(rung, plan) for plan in self._order() for rung in finalists]
        found: dict[str, list[Point]] = {rung.name: [] for rung in finalists}
        tables: dict[str, dict[float, np.ndarray]] = {rung.name: {} for rung in finalists}
        skipped: dict[str, list[str]] = {rung.name: [] for rung in finalists}
        for rung in finalists:
            assert rung.best is not None
            found[rung.name].append(Point(share=1.0, seed=0, score=rung.best.score))
            tables[rung.name][1.0] = self._table(rung.best, self.context_of(rung.base, rung.method.name, 0))
        for rung, (share, seed) in plans:
            if seed and not rung.method.trained:
                continue  # nothing in it is random
            reason = self._refit(rung, share, seed, found[rung.name], tables[rung.name])
            if reason is not None:
                skipped[rung.name].append(reason)
        self.studied = [
            Studied(
                rung=rung.name,
                points=tuple(found[rung.name]),
                skipped=tuple(skipped[rung.name]),
                more_data=self._more_data(rung, tables[rung.name]),
            )
            for rung in finalists
        ]
        return self.studied

    @staticmethod
    def _order() -> list[tuple[float, int]]:
        """(share, seed), the most telling first: a second seed, half the data, a third seed, a quarter."""
        return [(1.0, 1), (0.5, 0), (1.0, 2), (0.25, 0)]

    def _refit(
        self, rung: Rung, share: float, seed: int, points: list[Point], tables: dict[float, np.ndarray]
    ) -> str | None:
        assert rung.best is not None
        label = f"seed {seed}" if seed else f"{share:.0%} of train"
        context = self.context_of(rung.base, rung.method.name, 0)
        if seed:
            context = dataclasses.replace(context, seed=derive(context.seed, "refit", seed))
        if share < 1.0:
            context = part_of(context, share)
        config: Any = from_plain(rung.method.Config, rung.best.candidate.config, where=rung.method.name)
        price = self.purse.price(rung.method.name, rung.base, cost_of(rung.method, context, config).work)
        if self.arena.clock_stopped or price > self.purse.left_for_study or self.purse.trials_left < 1:
            return f"{label}: does not fit what is left of the budget"
        name = f"study-{rung.method.name}-{self.arena.task.models.index(rung.base)}-{label.replace(' ', '-')}"
        self.arena.watcher.rung(rung.method.name, rung.base, "running", f"again, {label}")
        name = name.replace("%", "")
        (trial,) = run_bracket(self.arena, rung.method, context, [config], name=name, halve=False, serve=False)
        self.purse.pay(rung.method.name, rung.base, trial.work, 1)
        self.arena.watcher.rung(rung.method.name, rung.base, "finished", "")
        if not isinstance(trial, Finished):
            return f"{label}: {trial.reason}"
        points.append(Point(share=share, seed=seed, score=trial.score))
        if not seed or seed == 1:
            # against the half, a refit that was not picked by these very rows is the fair one
            tables[share] = self._table(trial, context)
        return None

    def _table(self, trial: Finished, context: Context) -> np.ndarray:
        predictions = race_predictions(self.arena.run.folder / str(trial.folder), context.labels)
        return self.arena.judge(predictions, context.labels)

    def _more_data(self, rung: Rung, tables: dict[float, np.ndarray]) -> str | None:
        """What the second half of train added, paired on the same dev rows."""
        if 0.5 not in tables:
            return None
        metric = METRICS.get(self.arena.task.metric)
        context = self.context_of(rung.base, rung.method.name, 0)
        gain = paired(
            metric,
            tables[1.0],
            tables[0.5],
            n_labels=len(context.labels),
            clusters=self.arena.clusters,
            level=self.arena.task.level,
            rng=generator(self.arena.task.seed, "more data"),
        )
        sign = 1.0 if metric.greater_is_better else -1.0
        scale, unit = (100 if metric.unit == "points" else 1, f" {metric.unit}")
        low, high = sorted((sign * gain.low, sign * gain.high))
        seen = f"{scale * sign * gain.difference:+.1f} [{scale * low:+.1f}, {scale * high:+.1f}]{unit}"
        if low > 0:
            return f"more data is likely to help: going from half of train to all of it added {seen}"
        if high < self.arena.task.margin:
            return f"more data is not likely to help: going from half of train to all of it added {seen}"
        return f"these rows cannot tell whether more data helps: going from half of train to all of it added {seen}"


def part_of(context: Context, share: float) -> Context:
    """The context with this share of each fold's train, stratified."""
    folds = []
    for fold in context.folds:
        kept, away = split_off(fold.train, share, seed=0, name="learning curve", strata=strata_of(context.task.kind))
        folds.append(Fold(train=away or kept, race=fold.race))
    tokens = round(context.train_tokens * share)
    # the same rows are watched, so that only the size of train differs
    return dataclasses.replace(context, folds=tuple(folds), train_tokens=tokens, watch=context.watched_rows)
