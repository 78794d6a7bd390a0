"""When a run ends before its time: Ctrl-C, SIGTERM and the clock."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from tunewise.errors import EndedEarly
from tunewise.search.budget import Clock


class OutOfTime(Exception):
    """The clock passed the hard stop inside a bracket."""


@dataclass
class Stopper:
    """Whether to go on: no after Ctrl-C or SIGTERM (once: the step is finished and saved), no past the hard stop."""

    clock: Clock
    hard_stop_seconds: float
    interrupted: bool = False

    def check(self) -> None:
        """Raise EndedEarly when interrupted, OutOfTime past the hard stop."""
        if self.interrupted:
            raise EndedEarly("interrupted; what was done is saved")
        if self.clock.seconds > self.hard_stop_seconds:
            raise OutOfTime

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as a wish to stop; the second one stops at once. Only where signals can be taken."""

        def stop(number: int, frame: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        try:
            old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever runs the thread handles signals
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
