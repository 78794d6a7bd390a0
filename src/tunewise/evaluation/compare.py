"""Compare two candidates on the same examples, and correct for having compared many.

Axes: E examples, K statistics, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.errors import DataError
from tunewise.evaluation.intervals import bca
from tunewise.evaluation.metrics.base import Metric
from tunewise.evaluation.resample import units


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Metric of a minus metric of b, in units of the metric."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference; not adjusted for other comparisons (see `holm`)."""
    standard_error: float
    method: str


def paired(
    metric: Metric,
    a_EK: np.ndarray,
    b_EK: np.ndarray,
    *,
    n_labels: int,
    clusters: Sequence[str | None] | None = None,
    level: float = 0.95,
    rng: np.random.Generator,
    draws: int = 2000,
) -> Difference:
    """Difference on the same resamples of the same examples, with a BCa interval.

    The p-value inverts that interval; for accuracy of independent examples it is McNemar's exact one.

    Raises:
        DataError: there is nothing to compare.
    """
    if len(a_EK) == 0 or a_EK.shape != b_EK.shape:
        raise DataError(
            f"compare: two candidates are compared on the same rows, got {len(a_EK)} and {len(b_EK)}; "
            "score both on one set that is not empty."
        )
    width = a_EK.shape[1]

    def difference(row_CK: np.ndarray, weight_DC: np.ndarray) -> np.ndarray:
        of_a_D = metric.aggregate_draws(row_CK[:, :width], weight_DC, n_labels)
        of_b_D = metric.aggregate_draws(row_CK[:, width:], weight_DC, n_labels)
        lead_D: np.ndarray = of_a_D - of_b_D
        return lead_D

    drawn = units(np.hstack([a_EK, b_EK]), clusters)
    whole = bca(drawn, difference, level, rng, draws)
    exact = metric.binary and drawn.rows_GC is None
    return Difference(
        difference=whole.value,
        low=min(whole.low, whole.value),
        high=max(whole.high, whole.value),
        p=mcnemar(a_EK[:, 0], b_EK[:, 0]) if exact else whole.p_two_sided(),
        standard_error=float(whole.value_D.std(ddof=1)),
        method=f"paired bca bootstrap over {drawn.noun}" + (", exact mcnemar p" if exact else ""),
    )


def standard_error(
    metric: Metric,
    a_EK: np.ndarray,
    b_EK: np.ndarray,
    *,
    n_labels: int,
    clusters: Sequence[str | None] | None = None,
    rng: np.random.Generator,
    draws: int = 2000,
) -> float:
    """Standard deviation of the paired difference over resamples, in units of the metric."""
    return paired(metric, a_EK, b_EK, n_labels=n_labels, clusters=clusters, rng=rng, draws=draws).standard_error


def mcnemar(hit_a_E: np.ndarray, hit_b_E: np.ndarray) -> float:
    """Exact two-sided p that either is right alone equally often (McNemar, 1947; binomial form)."""
    from scipy.stats import binomtest

    only_a = int(((hit_a_E > 0) & (hit_b_E == 0)).sum())
    only_b = int(((hit_b_E > 0) & (hit_a_E == 0)).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for all of them together, in the order given (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted
