"""How fast this machine is at each rung: a few steps of each, timed once at start and written to the ledger."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunewise.evaluation.cost import PeakMemory
from tunewise.methods.base import Bracket, Context, Method, default_of
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder
from tunewise.types import Example

SAMPLE_ROWS, WARM_UP_ROWS = 256, 32
REHEARSAL_ROWS = 96
REHEARSAL_STEPS = 3
"""Timed, after a first one that pays for set-up. The fastest counts: other work on the machine only ever adds time."""
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a rehearsal of a rung showed."""

    seconds_per_work: float
    memory_bytes: int


def forward_speed(base: Encoder, examples: tuple[Example, ...], policy: Any) -> Speed:
    """Of a plain forward pass: the unit that all work is counted in.

    Few rows are read several times over: one pass over a handful is slow per token, and a run reads many.
    """
    few = base.encode([example.texts for example in examples[:SAMPLE_ROWS]], policy)
    rows = few.of_rows([i % few.rows for i in range(SAMPLE_ROWS)])
    base.features_of(rows.of_rows(range(WARM_UP_ROWS)))  # the first pass pays for set-up, which a run pays once
    with PeakMemory() as memory:
        seconds = min(_seconds(lambda: base.features_of(rows)) for _ in range(REPEATS))
    return Speed(seconds_per_work=seconds / max(1, rows.tokens), memory_bytes=memory.bytes)


def rehearse(method: Method, context: Context, features: FeatureStore, forward: Speed) -> Speed:
    """A few optimiser steps of the default candidate on a sample of train, timed after the first.

    Where the method crashes, its rung will fail with that reason when it is tried; until then it is planned for at
    the speed of a plain forward pass. `features` is shared by all rehearsals on a base.
    """
    try:
        return _rehearse(method, context, features)
    except Exception:  # noqa: BLE001 - the rung itself reports it, with its reason
        return forward


def _rehearse(method: Method, context: Context, features: FeatureStore) -> Speed:
    sample = dataclasses.replace(
        context.fold, train=context.fold.train[:REHEARSAL_ROWS], race=context.fold.race[: REHEARSAL_ROWS // 8]
    )
    small = dataclasses.replace(context, folds=(sample,), features=features)
    with PeakMemory() as memory:
        bracket = method.open(small, [default_of(method, context)])
        try:
            bracket.advance(1)
            rates = [_rate(bracket, 2 + step) for step in range(REHEARSAL_STEPS)]
        finally:
            bracket.close()
    return Speed(seconds_per_work=min(rates), memory_bytes=memory.bytes)


def _rate(bracket: Bracket, fidelity: int) -> float:
    """Seconds per unit of work of one step."""
    started = time.perf_counter()
    work = bracket.advance(fidelity)
    return (time.perf_counter() - started) / max(1, work)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
