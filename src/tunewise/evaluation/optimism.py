r"""How much better the best of several candidates looks than it is, because the rows that picked it also score it.

After bootstrap bias corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the
out-of-sample predictions for efficient and accurate cross-validation"): the rows are resampled, the candidate that is
best on the rows drawn is picked, and scored on those that were not drawn. With $I_b$ the rows of resample $b$, $c_b$
the candidate that is best on them and $w$ the winner on all rows, the winner owes to luck
$\tfrac1B \sum_b m(w, \bar I_b) - m(c_b, \bar I_b)$. Both are scored on the same rows left out, so that a metric that is
lower on few rows, as macro-F1 is, makes no difference.

Axes: E examples, K statistics, P candidates, G units drawn (examples or clusters), D draws.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.metrics.base import Metric

DRAWS = 400


def optimism(
    winner_EK: np.ndarray,
    table_PEK: Sequence[np.ndarray],
    metric: Metric,
    *,
    n_labels: int,
    clusters: Sequence[str | None] | None = None,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> float:
    """What to take off the winner's score (add to it where lower is better), 0 or more, in units of the metric.

    `table_PEK`: statistics of every candidate, the winner among them, on the same examples. 0 where it is the only one.
    """
    if len(table_PEK) < 2:
        return 0.0
    sign = 1.0 if metric.greater_is_better else -1.0
    drawn_DE = _times_drawn(len(winner_EK), clusters, rng, draws)
    left_DE = (drawn_DE == 0).astype(np.float64)
    some_D = left_DE.any(axis=1)
    if not some_D.any():
        return 0.0
    drawn_DE, left_DE = drawn_DE[some_D], left_DE[some_D]

    def values(own_EK: np.ndarray, weight_DE: np.ndarray) -> np.ndarray:
        return sign * metric.aggregate_draws(own_EK, weight_DE, n_labels)

    inside_PD = np.stack([values(own_EK, drawn_DE) for own_EK in table_PEK])
    outside_PD = np.stack([values(own_EK, left_DE) for own_EK in table_PEK])
    picked_D = np.argmax(np.nan_to_num(inside_PD, nan=-np.inf), axis=0)
    luck_D = values(winner_EK, left_DE) - outside_PD[picked_D, np.arange(len(picked_D))]
    known_D = luck_D[np.isfinite(luck_D)]
    return max(0.0, float(known_D.mean())) if len(known_D) else 0.0


def _times_drawn(n: int, clusters: Sequence[str | None] | None, rng: np.random.Generator, draws: int) -> np.ndarray:
    """How often each example lies in each resample [D, E]; the examples of a cluster come together."""
    unit_E = np.arange(n)
    if clusters is not None:
        names = [f"row {i}" if cluster is None else f"cluster {cluster}" for i, cluster in enumerate(clusters)]
        unit_E = np.unique(names, return_inverse=True)[1]
    units = int(unit_E.max()) + 1
    times_DG = rng.multinomial(units, np.full(units, 1.0 / units), size=draws)
    drawn_DE: np.ndarray = times_DG[:, unit_E].astype(np.float64)
    return drawn_DE
