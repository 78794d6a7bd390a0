"""Members that write texts: all in one pass, or one after another, whichever was the faster on the first rows."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from tunewise.adapters.stack import NotStackable
from tunewise.models.generate import Writer, Written
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.types import Example, Prediction

Answers = list[list[Written]]
"""Of each member, those to each example."""
Found = TypeVar("Found")


class WritingAtOnce:
    """How the members of a bracket write, and how so many of them were found to be the fastest."""

    def __init__(self, rung: str) -> None:
        self.rung = rung
        self.faster: dict[int, bool] = {}
        """By how many members write, whether one pass for all of them is no slower than one after another."""
        self.notes: list[str] = []
        self._known: tuple[list[AdaptedWriter], Writer] | None = None

    def predictions(self, writers: Sequence[AdaptedWriter], examples: Sequence[Example]) -> list[list[Prediction]]:
        """Of each of these, which are alike but for their adapters' numbers; what is written does not depend on how.

        The first examples are written either way, every other one so: nothing is written only to be timed.
        """
        if not examples:
            return [[] for _ in writers]
        count = len(writers)
        if count == 1 or (count not in self.faster and len(examples) == 1):
            answers = one_by_one(writers, examples)
        elif count not in self.faster:
            answers = self._timed(writers, examples)
        else:
            answers = self._at_once(writers, examples) if self.faster[count] else one_by_one(writers, examples)
        return [writer.telling(examples, own) for writer, own in zip(writers, answers, strict=True)]

    def _timed(self, writers: Sequence[AdaptedWriter], examples: Sequence[Example]) -> Answers:
        count, here, there = len(writers), examples[::2], examples[1::2]
        self._writer(writers)  # made once, whatever it writes
        alone, alone_seconds = _seconds(lambda: one_by_one(writers, there))
        try:
            together, seconds = _seconds(lambda: self._at_once(writers, here))
        except NotStackable as error:
            self.faster[count] = False
            self.notes.append(f"{self.rung}: texts are written one member after another: {error}")
            together = one_by_one(writers, here)
        else:
            row, row_alone = seconds / len(here), alone_seconds / len(there)
            self.faster[count] = row <= row_alone
            how = "in one pass" if self.faster[count] else "one member after another"
            self.notes.append(
                f"{self.rung}: texts are written {how}: a row of {count} members takes {row * 1e3:.0f} ms stacked, "
                f"{row_alone * 1e3:.0f} ms one by one"
            )
        return [
            [(own if place % 2 == 0 else other)[place // 2] for place in range(len(examples))]
            for own, other in zip(together, alone, strict=True)
        ]

    def _at_once(self, writers: Sequence[AdaptedWriter], examples: Sequence[Example]) -> Answers:
        written = writers[0].write(examples, self._writer(writers))
        return [written[start : start + len(examples)] for start in range(0, len(written), len(examples))]

    def _writer(self, writers: Sequence[AdaptedWriter]) -> Writer:
        if self._known is None or self._known[0] != list(writers):
            self._known = (list(writers), AdaptedWriter.at_once(writers))
        return self._known[1]

    def state(self) -> dict[str, Any]:
        """What was found, so that a resumed run writes in the same way: it changes the last bits."""
        return {"faster": [[count, faster] for count, faster in self.faster.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        self.faster = {int(count): bool(faster) for count, faster in state["faster"]}


def one_by_one(writers: Sequence[AdaptedWriter], examples: Sequence[Example]) -> Answers:
    """Each with passes of its own."""
    return [writer.write(examples, writer.writer) for writer in writers]


def _seconds(run: Callable[[], Found]) -> tuple[Found, float]:
    start = perf_counter()
    found = run()
    return found, perf_counter() - start
