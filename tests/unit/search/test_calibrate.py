"""Rehearsals: on rows of every label wherever they stand, and only of steps that did something."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods.base import Context, Fold
from tunewise.search import calibrate
from tunewise.search.calibrate import Speed, mixed, rehearse
from tunewise.types import Example

SORTED = tuple(Example(id=str(i), fields={"text": f"row {i}"}, target="no" if i < 990 else "yes") for i in range(1000))
FORWARD = Speed(seconds_per_work=1e-9, memory_bytes=1)


class Steps:
    """Every step is so many units of work and takes a second, as far as the horizon."""

    def __init__(self, horizon: int, clock: list[float]) -> None:
        self.horizon, self.clock, self.reached = horizon, clock, 0

    def advance(self, fidelity: int) -> int:
        steps = min(fidelity, self.horizon) - self.reached
        self.reached += steps
        self.clock[0] += steps + (9.0 if self.reached == steps == 1 else 0.001)  # the first one pays for set-up
        return 100 * steps

    def close(self) -> None: ...


class FakeMethod:
    name = "fake"

    def __init__(self, horizon: int, clock: list[float]) -> None:
        self.horizon, self.clock, self.rows = horizon, clock, ()

    def default(self, context: Context) -> Any:
        return None

    def open(self, context: Context, configs: Any) -> Steps:
        self.rows = context.fold.train
        if len({e.target for e in self.rows}) < 2:
            raise ValueError("one class")
        return Steps(self.horizon, self.clock)


@pytest.fixture
def context(tiny) -> Context:
    return Context(
        task=Task(data=DataConfig(train="x.csv"), budget=Budget(work=1)),
        labels=("no", "yes"),
        base=tiny,
        folds=(Fold(train=SORTED, race=SORTED[:40]),),
        features=lambda examples: np.zeros((len(examples), 1)),
        work=1,
        seed=1,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(calibrate, "default_of", lambda method, context: None)
    return now


def test_a_sample_has_every_label_however_the_file_is_sorted() -> None:
    for rows in (SORTED, SORTED[::-1]):
        sample = mixed(rows, 16)
        assert Counter(example.target for example in sample) == {"no": 8, "yes": 8}
        assert {example.id for example in sample} == {example.id for example in mixed(SORTED, 16)}
    assert len(mixed(SORTED, 5000)) == 1000


def test_a_rehearsal_is_not_led_astray_by_a_file_sorted_by_label(context: Context, clock: list[float]) -> None:
    said: list[str] = []
    speed = rehearse(FakeMethod(50, clock), context, None, FORWARD, said.append)
    assert speed.seconds_per_work == pytest.approx(0.01, rel=0.01)
    assert said == []


@pytest.mark.parametrize(("horizon", "seconds"), [(1, 0.1), (2, 0.01), (3, 0.01)])
def test_steps_beyond_the_end_are_not_timed(context: Context, clock: list[float], horizon: int, seconds: float) -> None:
    speed = rehearse(FakeMethod(horizon, clock), context, None, FORWARD, print)
    assert speed.seconds_per_work == pytest.approx(seconds, rel=0.02)


def test_a_rehearsal_that_crashes_is_said(context: Context, clock: list[float]) -> None:
    one_label = dataclasses.replace(context, folds=(Fold(train=SORTED[:100], race=SORTED[:40]),))
    said: list[str] = []
    assert rehearse(FakeMethod(9, clock), one_label, None, FORWARD, said.append) is FORWARD
    assert said == ["fake: not timed, so planned at the speed of the base (ValueError: one class)."]


@pytest.mark.parametrize(("together", "said"), [(0.5, None), (1.1, None), (3.0, "One thread reads 3.0 times as fast")])
def test_threads_that_wait_for_each_other_are_said(
    monkeypatch: pytest.MonkeyPatch, tiny, clock: list[float], together: float, said: str | None
) -> None:
    torch.set_num_threads(2)
    try:

        def reads(rows: Any) -> None:
            clock[0] += together if torch.get_num_threads() == 2 else 1.0

        monkeypatch.setattr(tiny, "features_of", reads)
        found = calibrate.waiting_threads(tiny, SORTED, "keep_start")
        assert (found or "").startswith(said or "")
        assert (found is None) is (said is None)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert calibrate.waiting_threads(tiny, SORTED, "keep_start") is None
    finally:
        torch.set_num_threads(1)
