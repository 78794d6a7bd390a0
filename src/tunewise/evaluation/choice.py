"""Choose the cheapest candidate that is not worse than the best by more than a margin, and say how sure that is.

The best on these rows is picked by the same rows, so it is partly lucky, and the truly best may be another one. A
candidate is therefore held against every other one, not against the apparent best alone, with a critical value for
all comparisons together: if the truly best candidate's differences to all others are covered, no candidate that is
worse by more than the margin can pass (Hsu, "Simultaneous confidence intervals for all distances from the 'best'",
1981). The critical value is taken from joint resamples, so that the correlation of candidates is used.

Axes: E examples, K statistics, M and N candidates, D draws.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.evaluation.metrics.base import Metric
from tunewise.evaluation.resample import Units, units


@dataclass(frozen=True)
class Contender:
    """A candidate in the final choice."""

    name: str
    cost_rank: tuple[Any, ...]
    """Compared as a tuple: the smaller, the cheaper."""
    statistics_EK: np.ndarray
    """Of the metric, on the same examples as every other contender's."""
    seed_sd: float = 0.0
    """Standard deviation of the metric over refits with other seeds; 0 where it was not measured or cannot vary."""
    optimism: float = 0.0
    """How much better than it is it looks, because these rows also picked it among others (`evaluation.optimism`)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which contender to take, and whether these rows are enough to say so."""

    index: int
    best_index: int
    """The one with the best score on these rows."""
    resolved: bool
    """Whether the chosen one is shown to be within the margin of the best, and no cheaper one is left open."""
    rows_to_resolve: int | None
    """About how many rows would resolve it; None where it is resolved, or where no number of rows would."""
    why: str


@dataclass(frozen=True)
class Bounds:
    """What is known of every pair: how much better the row's candidate is than the column's, higher is better."""

    value_M: np.ndarray
    lead_MN: np.ndarray
    error_MN: np.ndarray
    """Standard error of the lead, seeds included."""
    half_MN: np.ndarray
    """Lead plus and minus this covers the truth for all pairs with the truly best one together."""
    least_half: float
    """What `half_MN` cannot fall below on so few rows, however alike two candidates look."""
    critical: float
    seed_variance_MN: np.ndarray
    n: int


def choose(
    contenders: Sequence[Contender],
    metric: Metric,
    *,
    n_labels: int,
    margin: float,
    level: float = 0.05,
    clusters: Sequence[str | None] | None = None,
    rng: np.random.Generator,
    draws: int = 2000,
) -> Choice:
    """The cheapest contender shown not inferior to the best by more than `margin`.

    `level` is one-sided: where `resolved`, the chosen one is worse than the truly best one by more than the margin in
    at most this share of such choices. Where these rows cannot tell (the half-width of a comparison that matters
    exceeds the margin) it is the cheapest within both the margin and one paired standard error of the best, and not
    `resolved`.
    """
    assert contenders, "a choice needs at least one contender"
    if len(contenders) == 1:
        why = f"{contenders[0].name} is the only candidate with a score"
        return Choice(index=0, best_index=0, resolved=True, rows_to_resolve=None, why=why)
    known = _bounds(contenders, metric, n_labels, level, clusters, rng, draws)
    order = sorted(range(len(contenders)), key=lambda i: (contenders[i].cost_rank, -known.value_M[i], i))
    best = max(order, key=lambda i: known.value_M[i])
    not_inferior = [i for i in order if _worst_case(known, i) <= margin]
    open_pairs = _open_pairs(known, order, best, not_inferior, margin)
    if not open_pairs:
        why = _why_resolved(contenders, metric, known, not_inferior[0], best, margin)
        return Choice(index=not_inferior[0], best_index=best, resolved=True, rows_to_resolve=None, why=why)
    index = next(i for i in order if i == best or known.lead_MN[best, i] <= min(margin, known.error_MN[best, i]))
    rows = _rows_to_resolve(known, open_pairs, margin)
    why = _why_open(contenders, metric, known, index, best, margin, rows)
    return Choice(index=index, best_index=best, resolved=False, rows_to_resolve=rows, why=why)


def _bounds(
    contenders: Sequence[Contender],
    metric: Metric,
    n_labels: int,
    level: float,
    clusters: Sequence[str | None] | None,
    rng: np.random.Generator,
    draws: int,
) -> Bounds:
    sign = 1.0 if metric.greater_is_better else -1.0
    drawn = units(np.hstack([contender.statistics_EK for contender in contenders]), clusters)
    edges = np.cumsum([0, *(contender.statistics_EK.shape[1] for contender in contenders)])

    def values(row_CK: np.ndarray, weight_DC: np.ndarray) -> np.ndarray:
        columns = [row_CK[:, a:b] for a, b in itertools.pairwise(edges)]
        return sign * np.stack([metric.aggregate_draws(part, weight_DC, n_labels) for part in columns], axis=1)

    measured_M = drawn.value(values)[0]
    seed_sd_M = np.array([contender.seed_sd for contender in contenders])
    off_DM = drawn.draws(values, rng, draws) - measured_M + seed_sd_M * rng.standard_normal((draws, len(contenders)))
    off_DMN = off_DM[:, :, None] - off_DM[:, None, :]
    error_MN = off_DMN.std(axis=0, ddof=1)
    value_M = measured_M - np.array([contender.optimism for contender in contenders])
    critical = _critical(off_DMN, error_MN, level)
    least_half = _least_half(metric, drawn, level)
    return Bounds(
        value_M=value_M,
        lead_MN=value_M[:, None] - value_M[None, :],
        error_MN=error_MN,
        half_MN=np.maximum(critical * error_MN, least_half),
        least_half=least_half,
        critical=critical,
        seed_variance_MN=seed_sd_M[:, None] ** 2 + seed_sd_M[None, :] ** 2,
        n=len(contenders[0].statistics_EK),
    )


def _critical(off_DMN: np.ndarray, error_MN: np.ndarray, level: float) -> float:
    """Standard errors that cover the lead of any one candidate, were it the best, over all others at once.

    Read off the upper side of the draws (percentile, not basic bootstrap): near a share of 1 the spread of a lead grows
    with the lead, and the other side would be too short.
    """
    scale_MN = np.where(error_MN > 0, error_MN, np.inf)
    over_DM = (off_DMN / scale_MN).max(axis=2)
    return float(np.quantile(over_DM, 1.0 - level, axis=0).max())


def _least_half(metric: Metric, drawn: Units, level: float) -> float:
    """Rule of three: n units that all agree still leave a share of up to -ln(level)/n that may not."""
    return 0.0 if metric.unit == "nats" else -math.log(level) / drawn.n


def _worst_case(known: Bounds, i: int) -> float:
    """How much worse than the truly best one candidate i may be."""
    return max(float(known.lead_MN[j, i] + known.half_MN[j, i]) for j in range(len(known.value_M)) if j != i)


def _open_pairs(
    known: Bounds, order: Sequence[int], best: int, not_inferior: Sequence[int], margin: float
) -> list[tuple[int, int]]:
    """The comparisons with the best that more rows would settle and that bear on the choice; empty when resolved."""
    if not not_inferior:
        return [(best, j) for j in order if j != best and known.lead_MN[j, best] + known.half_MN[j, best] > margin]
    cheaper = order[: order.index(not_inferior[0])]
    return [
        (best, i)
        for i in cheaper
        if i != best and known.half_MN[best, i] > margin and known.lead_MN[best, i] - known.half_MN[best, i] <= margin
    ]


def _rows_to_resolve(known: Bounds, pairs: Sequence[tuple[int, int]], margin: float) -> int | None:
    """Rows at which the widest of these half-widths is the margin; the part that comes from seeds does not shrink."""
    rows = [0.0]
    for pair in pairs:
        seeds = known.seed_variance_MN[pair]
        room = margin**2 - known.critical**2 * seeds
        if margin <= 0 or room <= 0:
            return None
        sampling = known.critical**2 * max(known.error_MN[pair] ** 2 - seeds, 0.0)
        rows.append(known.n * max(sampling / room, known.least_half / margin))
    return max(math.ceil(max(rows)), known.n + 1)


def amount(metric: Metric, value: float) -> str:
    """`0.5 points` or `0.012 nats`."""
    if metric.unit != "points":
        return f"{value:.3f} {metric.unit}"
    text = f"{100 * value:.1f}".removesuffix(".0")
    return f"{text} point{'' if text == '1' else 's'}"


def rounded_up(rows: int) -> int:
    """To two digits, since more would claim what a projection cannot know."""
    step = int(10 ** max(len(str(rows)) - 2, 0))
    return -(-rows // step) * step


def _lead(contenders: Sequence[Contender], metric: Metric, known: Bounds, i: int, against: int) -> str:
    """`lora +0.4 [-0.2, +0.9]`: by how much i is better, in points (or nats), with the bounds the choice used."""
    scale, digits = (100, 1) if metric.unit == "points" else (1, 3)
    middle, half = known.lead_MN[i, against], known.half_MN[i, against]
    lead, low, high = (f"{scale * x + 0.0:+.{digits}f}" for x in (middle, middle - half, middle + half))
    return f"{contenders[i].name} {lead} [{low}, {high}]"


def _why_resolved(
    contenders: Sequence[Contender], metric: Metric, known: Bounds, chosen: int, best: int, margin: float
) -> str:
    name = contenders[chosen].name
    if chosen != best:
        lead = _lead(contenders, metric, known, best, chosen)
        tail = " and is cheaper" if contenders[chosen].cost_rank < contenders[best].cost_rank else ""
        return f"{name} is within {amount(metric, margin)} of the best ({lead}){tail}"
    second = max((i for i in range(len(contenders)) if i != best), key=lambda i: known.value_M[i])
    lead = _lead(contenders, metric, known, second, best)
    cheaper = [c for c in contenders if c.cost_rank < contenders[best].cost_rank]
    tail = f"nothing cheaper is shown to be within {amount(metric, margin)} of it" if cheaper else "nothing is cheaper"
    return f"{name} is the best (next {lead}) and {tail}"


def _why_open(
    contenders: Sequence[Contender],
    metric: Metric,
    known: Bounds,
    chosen: int,
    best: int,
    margin: float,
    rows: int | None,
) -> str:
    name = contenders[chosen].name
    others = [i for i in range(len(contenders)) if i != best]
    rival = max(others, key=lambda i: known.value_M[i]) if chosen == best else best
    lead = _lead(contenders, metric, known, rival, chosen)
    if chosen == best:
        start = f"{name} is the best here (next {lead}) and nothing cheaper is as close as margin and noise allow"
    else:
        start = f"{name} is the cheapest within the margin and one standard error of the best ({lead})"
    unsure = f"{known.n:,} rows cannot settle differences of {amount(metric, margin)}"
    if rows is not None:
        return f"{start}, but {unsure}; about {rounded_up(rows):,} would"
    reason = "a margin of 0 cannot be reached" if margin <= 0 else "refits with other seeds differ by more than that"
    return f"{start}, but {unsure}, and no number of rows would: {reason}"
