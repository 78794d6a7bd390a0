"""Who follows a run: everything a run says while it works goes to a Watcher, which shows it or keeps quiet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunewise.types import Score


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What a rung is expected to take, said before it is tried."""

    method: str
    base: str
    fits: bool
    reason: str | None
    """Why it is not tried, where it is not."""
    seconds: float
    """Of one candidate with the default configuration."""
    memory_bytes: int
    """Above what the process holds already."""
    candidates: int
    """How many configurations the budget is expected to reach."""
    note: str = ""


class Watcher(Protocol):
    """What a run tells; implementations never raise."""

    def say(self, sentence: str) -> None: ...

    def plan(self, rows: Sequence[PlanRow]) -> None: ...

    def rung(self, method: str, base: str, state: str, detail: str) -> None: ...

    def score(self, method: str, base: str, score: Score, seconds: float, trials: int) -> None: ...

    def progress(self, method: str, base: str, share: float, detail: str) -> None: ...

    def budget(
        self, spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None
    ) -> None: ...

    def verdict(self, verdict: Mapping[str, Any]) -> None: ...


class Quiet:
    """Says nothing."""

    def say(self, sentence: str) -> None: ...

    def plan(self, rows: Sequence[PlanRow]) -> None: ...

    def rung(self, method: str, base: str, state: str, detail: str) -> None: ...

    def score(self, method: str, base: str, score: Score, seconds: float, trials: int) -> None: ...

    def progress(self, method: str, base: str, share: float, detail: str) -> None: ...

    def budget(
        self, spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None
    ) -> None: ...

    def verdict(self, verdict: Mapping[str, Any]) -> None: ...
