"""Who goes on: a bracket shrinks by loss, but only as hard as the early order has been seen to hold."""

from dataclasses import dataclass

import numpy as np

FIDELITIES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the horizon at which members are compared; the first only shows whether the order holds."""
HOLDS = 0.7
"""Rank stability from which a bracket shrinks to a third."""
SHAKY = 0.4
"""Rank stability below which losses do not decide at all."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which members go on, and on what evidence."""

    keep: tuple[int, ...]
    stability: float | None
    why: str


def stability(before_PE: np.ndarray, now_PE: np.ndarray, *, rng: np.random.Generator, draws: int = 200) -> float:
    """How well the order of members at one fidelity holds at the next, by their losses on the same examples.

    The median, over bootstrap resamples of the examples, of Spearman's rank correlation between the members' mean
    losses before (on the resample) and now (on the examples left out of it), so that a shared noise of the examples
    does not pass for stability. Needs three members.
    """
    from scipy.stats import rankdata

    members, n = now_PE.shape
    correlations = []
    for _ in range(draws):
        picks = rng.integers(0, n, size=n)
        rest = np.setdiff1d(np.arange(n), picks)
        if len(rest) == 0:
            continue
        ranks = np.stack([rankdata(before_PE[:, picks].mean(axis=1)), rankdata(now_PE[:, rest].mean(axis=1))])
        if ranks.std(axis=1).min() == 0:
            continue
        correlations.append(float(np.corrcoef(ranks)[0, 1]))
    return float(np.median(correlations)) if correlations and members > 2 else 0.0


def decide(before_PE: np.ndarray | None, now_PE: np.ndarray, *, rng: np.random.Generator) -> Decision:
    """The members that go on after this fidelity.

    Where the order holds, the best third; where it holds half, the better two thirds; where it does not, losses decide
    nothing and the bracket runs fewer candidates in full: its first half, in the order they were drawn. Members whose
    loss is not finite always leave.
    """
    members = len(now_PE)
    mean_P = np.where(np.isfinite(now_PE).all(axis=1), now_PE.mean(axis=1), np.inf)
    alive = [int(p) for p in np.argsort(mean_P, kind="stable") if np.isfinite(mean_P[p])]
    if before_PE is None or len(alive) <= 2:
        return Decision(keep=tuple(sorted(alive)), stability=None, why="too early, or too few left, to drop any")
    held = stability(before_PE[alive], now_PE[alive], rng=rng)
    if held >= HOLDS:
        count, why = max(1, round(members / 3)), "the order held, so the best third go on"
    elif held >= SHAKY:
        count, why = max(1, round(2 * members / 3)), "the order held in part, so the better two thirds go on"
    else:
        count = max(1, members // 2)
        return Decision(
            keep=tuple(sorted(alive)[:count]),
            stability=held,
            why="the order did not hold, so losses decide nothing yet: the first half, as drawn, run in full",
        )
    return Decision(keep=tuple(sorted(alive[:count])), stability=held, why=why)


def expected_share(members: int) -> float:
    """Work of a bracket of this size in full runs of one member, where the early order does not hold.

    Where it holds a bracket takes less, and what is left goes to the next one.
    """
    left, reached, total = members, 0.0, 0.0
    for i, fidelity in enumerate(FIDELITIES):
        total += left * (fidelity - reached)
        reached = fidelity
        if i > 0 and left > 2:
            left = max(1, left // 2)
    return total
