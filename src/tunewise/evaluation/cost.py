"""Measure what an answer takes: milliseconds and memory."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from tunewise.errors import DataError
from tunewise.types import Example


def latency_ms(predict_one: Callable[[Example], object], examples: Sequence[Example], *, repeats: int = 3) -> float:
    """Median over examples and repeats of one call with one example, in ms; a first call is not counted.

    Raises:
        DataError: there are no examples.
    """
    if not examples:
        raise DataError("latency: it is measured on at least one example, and there is none.")
    predict_one(examples[0])
    seconds = []
    for _ in range(max(1, repeats)):
        for example in examples:
            start = time.perf_counter()
            predict_one(example)
            seconds.append(time.perf_counter() - start)
    return 1000.0 * float(np.median(seconds))


class PeakMemory:
    """Most memory in use between enter and exit, above what was in use at enter.

    Resident memory of this process is sampled by a thread, so a peak shorter than `sample_seconds` can be missed. On a
    device the allocator's own peak is read, exactly; it is reset at enter.
    """

    def __init__(self, sample_seconds: float = 0.01) -> None:
        self.sample_seconds = sample_seconds
        self.host_bytes = 0
        self.device_bytes: int | None = None
        """None where no CUDA device was in use at exit."""
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._start = self._device_start = 0
        self._thread: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """Of the device where one was used, else resident memory."""
        return self.host_bytes if self.device_bytes is None else self.device_bytes

    def __enter__(self) -> Self:
        self._stop.clear()
        self.host_bytes, self.device_bytes = 0, None
        self._start = self._process.memory_info().rss
        cuda = _cuda()
        self._device_start = 0 if cuda is None else cuda.memory_allocated()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch, name="tunewise-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()
        cuda = _cuda()
        if cuda is not None:
            self.device_bytes = max(0, cuda.max_memory_allocated() - self._device_start)

    def _watch(self) -> None:
        while not self._stop.wait(self.sample_seconds):
            self._sample()

    def _sample(self) -> None:
        self.host_bytes = max(self.host_bytes, self._process.memory_info().rss - self._start)


def _cuda() -> Any:
    """`torch.cuda` where torch is loaded and has touched a device, else None; torch is never imported for it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
