"""Who goes on: a bracket shrinks by loss, but only as hard as the early order has been seen to hold.

The constants were chosen on one set of published learning curves, then replayed on others (`benchmarks/replay.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MARKS = (1 / 20, 1 / 10, 1 / 4, 3 / 5)
"""Shares of the horizon at which members are compared."""
SHORT_RUN = 128
"""Steps below which the marks come later: at a twentieth of so few rates still rise, and nothing is ordered yet."""
MARKS_OF_SHORT_RUNS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Members answer as they were when they were evaluated last, at eighths (or quarters) of the horizon; two looks at one
evaluation would find that its order holds."""
TYPICAL = 1 / 10
"""Between the earliest and the latest first comparison: what a bracket is sized by before its horizon is known."""
PILOTS = 12
"""Members, the first as drawn, that go on to the second fidelity to show whether the order at the first one holds."""
HOLDS = 0.6
"""Trust in the order from which the square root of the members goes on."""
SHAKY = 0.5
"""Trust below which losses do not decide at all."""
DOUBT = 1.0
"""Weight of no order at all, in members, among what was measured: few members prove little."""


Look = Literal["start", "pilots", "first", "later"]
"""Everyone at the first fidelity; the pilots at the second; whoever followed them there; the fidelities after it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How well an order held from one fidelity to the next, among so many members."""

    stability: float
    members: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which members go on, and on what evidence."""

    keep: tuple[int, ...]
    measured: Measured | None
    trust: float
    why: str


def stability(before_PE: np.ndarray, now_PE: np.ndarray, *, rng: np.random.Generator, draws: int = 200) -> float:
    """How well the order of members at one fidelity holds at the next, by their losses on the same examples.

    The median, over bootstrap resamples of the examples, of Spearman's rank correlation between the members' mean
    losses before (on the resample) and now (on the examples left out of it), so that a shared noise of the examples
    does not pass for stability. Of a single example, the plain rank correlation. Needs three members.
    """
    from scipy.stats import rankdata

    members, n = now_PE.shape
    correlations = []
    for _ in range(draws if n > 1 else 1):
        picks = rng.integers(0, n, size=n)
        rest = np.setdiff1d(np.arange(n), picks) if n > 1 else np.zeros(1, dtype=int)
        if len(rest) == 0:
            continue
        ranks = np.stack([rankdata(before_PE[:, picks].mean(axis=1)), rankdata(now_PE[:, rest].mean(axis=1))])
        if ranks.std(axis=1).min() == 0:
            continue
        correlations.append(float(np.corrcoef(ranks)[0, 1]))
    return float(np.median(correlations)) if correlations and members > 2 else 0.0


def trust(measured: Sequence[Measured]) -> float:
    """What was measured so far, weighted by the members that it was measured on, and drawn to 0 by some doubt."""
    weight = sum(each.members - 1 for each in measured)
    return sum(each.stability * (each.members - 1) for each in measured) / (weight + DOUBT)


def looks(members: int, horizon: int) -> list[tuple[int, Look]]:
    """At what fidelities, in whole units, members of a bracket may leave; none where there is nothing to learn."""
    shares = MARKS if horizon >= SHORT_RUN else MARKS_OF_SHORT_RUNS
    marks = sorted({max(1, round(share * horizon)) for share in shares} - {horizon})
    if members <= 2 or len(marks) < 2:
        return []
    first, second, *later = marks
    return [(first, "start"), (second, "pilots"), (second, "first"), *((mark, "later") for mark in later)]


def decide(
    look: Look,
    before_PE: np.ndarray | None,
    now_PE: np.ndarray,
    measured: Sequence[Measured],
    *,
    rng: np.random.Generator,
) -> Decision:
    """Who goes on after a look, from the losses of all that are in the race, now and at the fidelity before.

    `before_PE`: at the looks "pilots" and "first" of the first fidelity; at "first" of those that are still there.
    """
    if look == "start" or before_PE is None:
        return cut(None, now_PE, (), rng=rng)
    if look == "pilots":
        return first_cut(before_PE, now_PE[: pilots(len(now_PE))], rng=rng)
    if look == "first":  # the pilots have shown how far the order holds, and the rest were compared before
        return cut(None, now_PE, measured, rng=rng)
    return cut(before_PE, now_PE, measured, rng=rng)


def pilots(members: int) -> int:
    """How many, as drawn, go ahead to the second fidelity."""
    return min(members, max(PILOTS, math.ceil(members / 4)))


def first_cut(first_PE: np.ndarray, ahead_GE: np.ndarray, *, rng: np.random.Generator) -> Decision:
    """Who reaches the second fidelity, from everyone's losses at the first and the pilots' at the second.

    Where the order held among the pilots, they and the best quarter of all; where it held in part, they and the better
    half; where it did not, losses decide nothing and the bracket runs fewer candidates in full: its first half, in the
    order they were drawn. Pilots whose loss is not finite always leave.
    """
    members, ahead = len(first_PE), len(ahead_GE)
    fine = [p for p in range(ahead) if np.isfinite(ahead_GE[p]).all()]
    going = [*fine, *range(ahead, members)]
    if members <= 2:
        return Decision(keep=tuple(going), measured=None, trust=0.0, why="too few to drop any")
    found = _measure(first_PE[fine], ahead_GE[fine], rng)
    held = trust([found] if found else [])
    if held < SHAKY:
        half = going[: math.ceil(members / 2)]
        why = "the order did not hold, so losses decide nothing yet: the first half, as drawn, run in full"
        return Decision(keep=tuple(half), measured=found, trust=held, why=why)
    share, how, which = (4, "held", "quarter") if held >= HOLDS else (2, "held in part", "half")
    best = [p for p in _by_loss(first_PE) if p in going][: max(1, round(members / share))]
    why = f"the order {how} among those that went ahead, and it was not in the best {which}"
    return Decision(keep=tuple(sorted({*best, *fine})), measured=found, trust=held, why=why)


def cut(
    before_PE: np.ndarray | None,
    now_PE: np.ndarray,
    measured: Sequence[Measured],
    *,
    rng: np.random.Generator,
) -> Decision:
    """The members that go on after this fidelity.

    `measured`: what the bracket showed before. `before_PE`: the same members' losses at the fidelity before, None
    where that was measured already.

    Where the order holds, the square root of their number goes on; where it holds in part, its power of 3/4, half of
    them at most; where it does not, all. Members whose loss is not finite always leave.
    """
    alive = [p for p in _by_loss(now_PE) if np.isfinite(now_PE[p]).all()]
    found = None if before_PE is None else _measure(before_PE[sorted(alive)], now_PE[sorted(alive)], rng)
    held = trust([*measured, *([found] if found else [])])
    if held >= HOLDS:
        count, why = max(1, round(len(alive) ** 0.5)), "the order held, so only the best go on"
    elif held >= SHAKY:
        count = max(1, min(round(len(alive) ** 0.75), math.ceil(len(alive) / 2)))
        why = "the order held in part, so the better ones go on"
    else:
        count, why = len(alive), "the order did not hold, so all go on"
    return Decision(keep=tuple(sorted(alive[:count])), measured=found, trust=held, why=why)


def _measure(before_PE: np.ndarray, now_PE: np.ndarray, rng: np.random.Generator) -> Measured | None:
    """Of the members that have answered anew; None for fewer than three: their order says nothing."""
    moved = (before_PE != now_PE).any(axis=1)
    if moved.sum() < 3:
        return None
    before_PE, now_PE = before_PE[moved], now_PE[moved]
    return Measured(stability=stability(before_PE, now_PE, rng=rng), members=len(now_PE))


def _by_loss(loss_PE: np.ndarray) -> list[int]:
    """All members, lowest mean loss first, those without a finite one last."""
    mean_P = np.where(np.isfinite(loss_PE).all(axis=1), loss_PE.mean(axis=1), np.inf)
    return [int(p) for p in np.argsort(mean_P, kind="stable")]


def expected_share(members: int) -> float:
    """Work of a bracket of this size in full runs of one member, where the early order does not hold.

    Where it holds a bracket takes less, and what is left goes to the next one.
    """
    if members <= 2:
        return float(members)
    half = math.ceil(members / 2)
    ahead = max(0, pilots(members) - half)
    return (members + ahead) * TYPICAL + half * (1 - TYPICAL)


def expected_looks(members: int) -> int:
    """How often a member's race rows are read at looks of their own, over a bracket of this size.

    From the third look on what evaluations have read is at hand; in short runs it is from the first.
    """
    return 0 if members <= 2 else members + pilots(members)
