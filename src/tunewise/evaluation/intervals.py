"""Say how far a score may be from the truth: Wilson for shares, BCa bootstrap for everything else.

Axes: E examples, K statistics, D draws, J jackknife sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.errors import DataError
from tunewise.evaluation.metrics.base import Metric
from tunewise.evaluation.resample import Functional, Units, units
from tunewise.types import Score

FEW_CLUSTERS = 20
"""With fewer than this, intervals over clusters are too narrow."""


def interval(
    metric: Metric,
    statistics_EK: np.ndarray,
    *,
    n_labels: int,
    clusters: Sequence[str | None] | None = None,
    level: float = 0.95,
    rng: np.random.Generator,
    draws: int = 2000,
) -> Score:
    """The metric with its two-sided interval, which always contains the value.

    Wilson, "Probable inference", 1927, for shares of independent examples; otherwise Efron, "Better bootstrap
    confidence intervals", 1987 (BCa), over examples or, where clusters are named, over whole clusters.

    Raises:
        DataError: there is nothing to score.
    """
    n = len(statistics_EK)
    if n == 0:
        raise DataError("evaluation: a score needs at least one row with a target, and this set has none.")
    value = metric.aggregate(statistics_EK, n_labels)
    drawn = units(statistics_EK, clusters)
    if metric.binary and drawn.rows_GC is None:
        low, high = wilson(float(statistics_EK[:, 0].sum()), n, level)
        method = "wilson"
    else:
        whole = bca(drawn, lambda rows, weights: metric.aggregate_draws(rows, weights, n_labels), level, rng, draws)
        low, high = whole.low, whole.high
        method = f"bca bootstrap over {drawn.noun}"
    return Score(
        metric=metric.name,
        value=value,
        low=min(low, value),
        high=max(high, value),
        n=n,
        level=level,
        method=method,
        caution=_caution(metric.caution(statistics_EK, n_labels), drawn),
    )


def wilson(hits: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction."""
    z2 = normal_quantile((1.0 + level) / 2.0) ** 2
    share = hits / n
    middle = (share + z2 / (2 * n)) / (1.0 + z2 / n)
    half = math.sqrt(z2 * (share * (1.0 - share) / n + z2 / (4 * n * n))) / (1.0 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Bca:
    """Draws of a quantity with Efron's two corrections."""

    value: float
    low: float
    high: float
    bias: float
    """Efron's z0: how far the median of the draws lies from the value, in normal units."""
    acceleration: float
    value_D: np.ndarray

    def p_two_sided(self) -> float:
        """Of the hypothesis that the truth is 0: the level at which the interval would just touch it."""
        if np.ptp(self.value_D) == 0.0:
            return 1.0 if self.value == 0.0 else 2.0 / (len(self.value_D) + 1)
        step = normal_quantile(_share_below(self.value_D, 0.0)) - self.bias
        under = 1.0 + self.acceleration * step
        tail = _normal_share(step / under - self.bias) if under > 0 else float(step > 0)
        return float(min(1.0, max(2.0 * min(tail, 1.0 - tail), 2.0 / (len(self.value_D) + 1))))


def bca(drawn: Units, functional: Functional, level: float, rng: np.random.Generator, draws: int) -> Bca:
    """Bias-corrected and accelerated interval of a quantity of the drawn units."""
    value = float(drawn.value(functional)[0])
    value_D = drawn.draws(functional, rng, draws)
    if drawn.n < 2 or np.ptp(value_D) < 1e-15:
        return Bca(value, value, value, 0.0, 0.0, value_D)
    bias = normal_quantile(_share_below(value_D, value))
    value_J, times_J = drawn.jackknife(functional, rng)
    acceleration = _acceleration(value_J, times_J)
    tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    low, high = np.quantile(value_D, [_corrected(tail, bias, acceleration) for tail in tails])
    return Bca(value, float(low), float(high), bias, acceleration, value_D)


def normal_quantile(share: float) -> float:
    """Of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(share))


def _normal_share(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _share_below(value_D: np.ndarray, value: float) -> float:
    """Share of draws below, ties counted half, kept off 0 and 1 by one draw."""
    tie = 1e-12 * max(1.0, abs(value))
    below = float((value_D < value - tie).sum() + 0.5 * (np.abs(value_D - value) <= tie).sum())
    return float(np.clip(below / len(value_D), 1.0 / (len(value_D) + 1), len(value_D) / (len(value_D) + 1)))


def _acceleration(value_J: np.ndarray, times_J: np.ndarray) -> float:
    apart_J = np.average(value_J, weights=times_J) - value_J
    squares = float((times_J * apart_J**2).sum())
    return float((times_J * apart_J**3).sum()) / (6.0 * squares**1.5) if squares > 0 else 0.0


def _corrected(tail: float, bias: float, acceleration: float) -> float:
    """The share of draws at which BCa reads the bound that an unbiased bootstrap reads at `tail`."""
    step = bias + normal_quantile(tail)
    under = 1.0 - acceleration * step
    return _normal_share(bias + step / under) if under > 0 else float(step > 0)


def _caution(of_metric: str | None, drawn: Units) -> str | None:
    notes = [of_metric] if of_metric else []
    if drawn.rows_GC is not None and drawn.n < FEW_CLUSTERS:
        notes.append(f"only {drawn.n} clusters; with fewer than {FEW_CLUSTERS} the interval is too narrow")
    return "; ".join(notes) or None
