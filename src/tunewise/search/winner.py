"""Which is taken of a bracket's members, or of two brackets' winners: near the best by metric, that of lowest loss.

P members, E race rows, K numbers of a metric's statistics.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.compare import standard_error
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.texts import means_compared
from tunewise.methods.base import Context
from tunewise.search.arena import Arena
from tunewise.seeding import generator


def ranked(
    arena: Arena,
    context: Context,
    *,
    table_P: Sequence[np.ndarray | None],
    score_P: np.ndarray,
    losses: Sequence[np.ndarray],
    failed_P: Sequence[str | None],
) -> list[int]:
    """Members that have a result, the one to take first.

    `table_P`: statistics [E, K] of each; `losses`: of each on the race rows [E]. They are compared on the rows where
    each has one: a member that can read less must not win by that.
    """
    usable = [p for p, reason in enumerate(failed_P) if reason is None]
    if not usable:
        return []
    sign = 1.0 if METRICS.get(arena.task.metric).greater_is_better else -1.0
    last = dict(zip(usable, means_compared([losses[p] for p in usable]), strict=True))
    top = max(usable, key=lambda p: (sign * score_P[p], -last[p]))
    rng = generator(context.seed, "winner")
    table = {p: own for p, own in enumerate(table_P) if own is not None}
    near = {p for p in usable if p == top or _near(arena, table[top], table[p], len(context.labels), rng)}
    return sorted(usable, key=lambda p: (p not in near, last[p]))


def _near(arena: Arena, top_EK: np.ndarray, other_EK: np.ndarray, labels: int, rng: np.random.Generator) -> bool:
    """Whether the two lie within one paired standard error of each other."""
    metric = METRICS.get(arena.task.metric)
    gap = abs(metric.aggregate(top_EK, labels) - metric.aggregate(other_EK, labels))
    return gap <= standard_error(metric, top_EK, other_EK, n_labels=labels, clusters=arena.clusters, rng=rng, draws=200)
