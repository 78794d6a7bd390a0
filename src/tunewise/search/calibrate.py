"""How fast this machine is at each rung: a few steps of each, timed once at start and written to the ledger."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunewise.evaluation.cost import PeakMemory
from tunewise.methods.base import Bracket, Context, Method, default_of
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder, Tokens
from tunewise.training.rows import watched
from tunewise.types import Example, Target

SAMPLE_ROWS, WARM_UP_ROWS = 256, 32
REHEARSAL_ROWS = 96
REHEARSAL_STEPS = 3
"""Timed, after a first one that pays for set-up. The fastest counts: other work on the machine only ever adds time."""
REPEATS = 3
WORTH_SAYING = 1.15
"""So many times as fast one thread has to be."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a rehearsal of a rung showed."""

    seconds_per_work: float
    memory_bytes: int


def forward_speed(base: Encoder, examples: tuple[Example, ...], policy: Any) -> Speed:
    """Of a plain forward pass: the unit that all work is counted in.

    Few rows are read several times over: one pass over a handful is slow per token, and a run reads many.
    """
    rows = _rows_to_read(base, examples, policy)
    base.features_of(rows.of_rows(range(WARM_UP_ROWS)))  # the first pass pays for set-up, which a run pays once
    with PeakMemory() as memory:
        seconds = min(_seconds(lambda: base.features_of(rows)) for _ in range(REPEATS))
    return Speed(seconds_per_work=seconds / max(1, rows.tokens), memory_bytes=memory.bytes)


def waiting_threads(base: Encoder, examples: tuple[Example, ...], policy: Any) -> str | None:
    """What to say where one thread reads faster than all: they wait for each other where a core has other work.

    The run keeps its threads: how many there are decides the last digits of results, and those must not depend on what
    else the machine is doing.
    """
    threads = torch.get_num_threads()
    if threads == 1 or base.device.type != "cpu":
        return None
    rows = _rows_to_read(base, examples, policy).of_rows(range(WARM_UP_ROWS))

    def seconds() -> float:
        return min(_seconds(lambda: base.features_of(rows)) for _ in range(REPEATS))

    together = seconds()
    torch.set_num_threads(1)
    try:
        alone = seconds()
    finally:
        torch.set_num_threads(threads)
    if together < WORTH_SAYING * alone:
        return None
    return (
        f"One thread reads {together / alone:.1f} times as fast as {threads}, which wait for each other: something "
        "else keeps this machine's cores busy. Stop it, or run with OMP_NUM_THREADS=1: more is then tried."
    )


def _rows_to_read(base: Encoder, examples: tuple[Example, ...], policy: Any) -> Tokens:
    sample = watched([example.digest for example in examples], SAMPLE_ROWS)
    few = base.encode([examples[i].texts for i in sample], policy)
    return few.of_rows([i % few.rows for i in range(SAMPLE_ROWS)])


def rehearse(
    method: Method, context: Context, features: FeatureStore, forward: Speed, say: Callable[[str], None]
) -> Speed:
    """A few optimiser steps of the default candidate on a sample of train, timed after the first.

    Where that crashes, it is said, and the rung is planned for at the speed of a plain forward pass; it is tried all
    the same. `features` is shared by all rehearsals on a base.
    """
    try:
        return _rehearse(method, context, features)
    except Exception as error:  # noqa: BLE001 - whatever a method raises is no reason to end the run
        say(f"{method.name}: not timed, so planned at the speed of the base ({type(error).__name__}: {error}).")
        return forward


def _rehearse(method: Method, context: Context, features: FeatureStore) -> Speed:
    sample = dataclasses.replace(
        context.fold,
        train=mixed(context.fold.train, REHEARSAL_ROWS),
        race=mixed(context.fold.race, REHEARSAL_ROWS // 8),
    )
    small = dataclasses.replace(context, folds=(sample,), features=features)
    with PeakMemory() as memory:
        bracket = method.open(small, [default_of(method, context)])
        try:
            rates = [_rate(bracket, 1 + step) for step in range(1 + REHEARSAL_STEPS)]
        finally:
            bracket.close()
    first, *others = [rate for rate in rates if rate is not None]
    return Speed(seconds_per_work=min(others, default=first), memory_bytes=memory.bytes)


def mixed(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most this many rows with as many labels among them as there are, wherever they stand in the file."""
    seen: Counter[Target | None] = Counter()
    turn = {}
    for i in sorted(range(len(examples)), key=lambda i: examples[i].digest):
        turn[i] = seen[examples[i].target]
        seen[examples[i].target] += 1
    chosen = sorted(turn, key=lambda i: (turn[i], examples[i].digest))[:most]
    return tuple(examples[i] for i in sorted(chosen))


def _rate(bracket: Bracket, fidelity: int) -> float | None:
    """Seconds per unit of work of one step; None where the bracket has come to its end."""
    started = time.perf_counter()
    work = bracket.advance(fidelity)
    return (time.perf_counter() - started) / work if work else None


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
