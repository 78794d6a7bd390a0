"""Time is a median without the first call; memory is a peak above the start."""

import sys
import time
import types

import numpy as np
import pytest

from tunewise.errors import DataError
from tunewise.evaluation.cost import PeakMemory, latency_ms
from tunewise.types import Example


def rows(n: int) -> list[Example]:
    return [Example(id=str(i), fields={"text": "x"}) for i in range(n)]


def test_latency_is_in_milliseconds_and_ignores_the_first_call():
    calls = []

    def answer(example: Example) -> None:
        time.sleep(0.2 if not calls else 0.005)
        calls.append(example.id)

    assert 5 <= latency_ms(answer, rows(2), repeats=3) < 100
    assert calls == ["0", "0", "1", "0", "1", "0", "1"]


def test_latency_of_nothing_is_refused():
    with pytest.raises(DataError, match="measured on at least one example"):
        latency_ms(lambda example: None, [])


def test_peak_memory_sees_what_was_given_back(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with PeakMemory() as memory:
        block = np.ones(8_000_000)
        time.sleep(0.1)
        del block
    assert 50_000_000 < memory.bytes < 200_000_000
    assert memory.device_bytes is None


def test_peak_memory_starts_anew_each_time(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    memory = PeakMemory()
    with memory:
        block = np.ones(8_000_000)
        time.sleep(0.05)
        del block
    with memory:
        pass
    assert memory.bytes < 20_000_000


def test_the_device_counts_where_one_is_used(monkeypatch):
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        memory_allocated=lambda: 1000,
        max_memory_allocated=lambda: 5000,
        reset_peak_memory_stats=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    with PeakMemory() as memory:
        pass
    assert (memory.device_bytes, memory.bytes) == (4000, 4000)


def test_the_watching_thread_ends_when_the_body_fails():
    memory = PeakMemory()
    with pytest.raises(ValueError, match="boom"), memory:
        raise ValueError("boom")
    assert memory._thread is not None
    assert not memory._thread.is_alive()
