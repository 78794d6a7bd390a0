"""What will be tried, what it is expected to take, and what does not fit and why; said before anything is spent."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import psutil

from tunewise.methods import get_method
from tunewise.methods.base import Context, default_of, proposed, skip_reason
from tunewise.methods.folded import cost_of, refit_work
from tunewise.search.budget import SEARCH_SHARE, Purse
from tunewise.search.calibrate import Speed
from tunewise.search.climb import ALL_DEFAULTS, MAX_BRACKET, in_turn, largest_bracket, most_asked
from tunewise.search.space import FixedGrid
from tunewise.search.watch import PlanRow


def make_plan(
    methods: Sequence[str],
    bases: Sequence[str],
    context_of: Callable[[str, str, int], Context],
    speeds: Mapping[str, Speed],
    purse: Purse,
) -> list[PlanRow]:
    """One row per rung and base, in the order they are tried."""
    rows = [_features(base, paid, speeds) for base in bases if (paid := purse.work_paid("forward", base))]
    left = float("inf") if purse.total is None else SEARCH_SHARE * purse.total
    planned = 0.0
    trained = [name for name in methods if get_method(name).trained]
    for name in in_turn(methods):
        method = get_method(name)
        for base in bases:
            context = context_of(base, name, 0)
            skip = skip_reason(method, context)
            speed = speeds.get(f"{name} {base}")
            if skip is not None:
                rows.append(_not_tried(name, base, skip))
                continue
            config = default_of(method, context)
            cost = cost_of(method, context, config)
            memory = max(cost.memory_bytes, speed.memory_bytes if speed else 0)
            refusal = cost.fits or memory_refusal(memory)
            price = purse.price(name, base, cost.work + refit_work(method, context, config))
            if refusal is None and price > left:
                refusal = "one candidate does not fit what is left of the budget"
            candidates = 0 if refusal else 1
            # as `Climb` does: where the defaults before it took their share, it gets what brackets leave
            waits = method.trained and refusal is None and purse.beyond(ALL_DEFAULTS, planned + price)
            if refusal is None and not waits:
                left, planned = left - price, planned + price
            rows.append(
                PlanRow(
                    method=name,
                    base=base,
                    fits=refusal is None,
                    reason=refusal,
                    seconds=cost.work * (speed.seconds_per_work if speed else context.seconds_per_work),
                    memory_bytes=memory,
                    candidates=candidates,
                    note="after the brackets, if enough is left" if waits else "",
                )
            )
    return _within_trials(
        [_with_bracket(row, rows, trained, left, purse, context_of) for row in rows], purse.trials_left
    )


def looks_up_vectors(methods: Sequence[str], base: str, context_of: Callable[[str, str, int], Context]) -> bool:
    """Whether rungs read vectors of this frozen base: with labels they do, where texts are written only some."""
    if context_of(base, methods[0], 0).task.kind == "classify":
        return True
    showing = [name for name in methods if getattr(get_method(name), "shows_similar", False)]
    return any(skip_reason(get_method(name), context_of(base, name, 0)) is None for name in showing)


def _not_tried(method: str, base: str, reason: str) -> PlanRow:
    return PlanRow(
        method=method, base=base, fits=False, reason=reason, seconds=0.0, memory_bytes=0, candidates=0, note=""
    )


def _within_trials(rows: Sequence[PlanRow], trials: int) -> list[PlanRow]:
    """The rows with as many candidates as the trials allow: one for each rung first, then more in turn."""
    spare = trials - sum(row.candidates > 0 for row in rows)
    found, tried = [], 0
    for row in rows:
        if row.candidates > 0 and tried >= trials:
            row = dataclasses.replace(row, fits=False, reason="the budget's trials are used up", candidates=0, note="")
        elif row.candidates > 0:
            more = min(row.candidates - 1, max(0, spare))
            spare, tried = spare - more, tried + 1
            row = dataclasses.replace(row, candidates=1 + more)
        found.append(row)
    return found


def _features(base: str, tokens: float, speeds: Mapping[str, Speed]) -> PlanRow:
    """The vectors of train and dev, computed once for all rungs that read them, and paid already."""
    speed = speeds[f"forward {base}"]
    return PlanRow(
        method="features",
        base=base,
        fits=True,
        reason=None,
        seconds=tokens * speed.seconds_per_work,
        memory_bytes=speed.memory_bytes,
        candidates=0,
        note="computed once, read by every rung on frozen features",
    )


def _with_bracket(
    row: PlanRow,
    rows: Sequence[PlanRow],
    trained: Sequence[str],
    left: float,
    purse: Purse,
    context_of: Callable[[str, str, int], Context],
) -> PlanRow:
    """The row with the candidates of the first search bracket, where one is expected to fit."""
    if not row.fits or row.candidates == 0 or row.note:
        return row
    method = get_method(row.method)
    context = context_of(row.base, row.method, 0)
    if not method.trained:
        price = purse.price(row.method, row.base, cost_of(method, context, default_of(method, context)).work)
        room = most_asked(MAX_BRACKET * 2, purse.left, price)
        more = len(proposed(method, context, FixedGrid(), np.random.default_rng(0), room))
        return dataclasses.replace(row, candidates=1 + more)
    rivals = sum(other.fits and not other.note and other.method in trained for other in rows)
    config = default_of(method, context)
    one = purse.price(row.method, row.base, cost_of(method, context, config).work)
    refit = purse.price(row.method, row.base, refit_work(method, context, config))
    return dataclasses.replace(row, candidates=1 + largest_bracket(left / max(1, rivals) - refit, one))


def memory_refusal(needed_bytes: int) -> str | None:
    """The sentence that says why this much memory is not there, or None."""
    there = psutil.virtual_memory().available
    if needed_bytes <= there:
        return None
    return f"it needs about {needed_bytes / 1e9:.1f} GB of memory above what is held, {there / 1e9:.1f} GB are free"


def memory_refusals(rows: Sequence[PlanRow]) -> dict[str, str]:
    """By "method base": why a rung does not fit this machine's memory."""
    return {
        f"{row.method} {row.base}": reason for row in rows if (reason := memory_refusal(row.memory_bytes)) is not None
    }
