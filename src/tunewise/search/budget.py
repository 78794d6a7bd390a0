"""What a run may take: minutes become work once, work is what decides, the clock only stops a run that overshoots."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewise.config import Budget

SEARCH_SHARE = 0.76
"""Of the work, for rungs and brackets."""
STUDY_SHARE = 0.22
"""Of the work, for refits of the finalists."""
LEAST_SHARE = 0.5
"""Of the minutes, that is searched with however long it takes to measure the winners."""
OVERSHOOT = 1.10
"""Of the minutes that were asked for, at which the clock stops a run."""


@dataclass
class Clock:
    """Seconds a run has taken, over all its sittings; monotonic, so that a changed wall clock does not matter."""

    before: float = 0.0
    """Seconds of earlier sittings."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


@dataclass
class Purse:
    """Work that was granted and spent. A pure function of what was recorded, never of the clock.

    Work is counted in forward-equivalent unpadded tokens, backward counted twice. Where minutes were asked for, a
    method whose tokens take longer than a plain forward pass of the first base is charged that much more (`rates`).
    """

    total: int | None
    trials: int | None
    rates: Mapping[str, float]
    """By "method base": how much slower a unit of this method's work is than the reference."""
    spent: float = 0.0
    tried: int = 0
    by_rung: dict[str, float] = field(default_factory=dict)

    def price(self, method: str, base: str, work: float) -> float:
        """This work in units of the purse."""
        return work * self.rates.get(f"{method} {base}", 1.0)

    def granted(self, method: str, base: str) -> int:
        """The work of the whole search, in tokens of this method."""
        return 2**62 if self.total is None else int(SEARCH_SHARE * self.total / self.price(method, base, 1.0))

    def beyond(self, share: float, price: float) -> bool:
        """Whether this price would take the search beyond this share of its work."""
        return self.total is not None and self.spent + price > share * SEARCH_SHARE * self.total

    def pay(self, method: str, base: str, work: float, candidates: int) -> None:
        price = self.price(method, base, work)
        self.spent += price
        self.tried += candidates
        self.by_rung[f"{method} {base}"] = self.by_rung.get(f"{method} {base}", 0.0) + price

    def work_paid(self, method: str, base: str) -> float:
        """What was paid for so far, in tokens of this method."""
        return self.by_rung.get(f"{method} {base}", 0.0) / self.price(method, base, 1.0)

    @property
    def left(self) -> float:
        """What the search may still spend; infinite where only trials are limited."""
        return float("inf") if self.total is None else max(0.0, SEARCH_SHARE * self.total - self.spent)

    @property
    def left_for_study(self) -> float:
        """What refits of the finalists may still spend: their own share, and what the search did not need."""
        total = float("inf") if self.total is None else self.total
        return max(0.0, (SEARCH_SHARE + STUDY_SHARE) * total - self.spent)

    @property
    def trials_left(self) -> int:
        return 10**9 if self.trials is None else max(0, self.trials - self.tried)


def work_of(budget: Budget, *, seconds_spent: float, finish_seconds: float, seconds_per_work: float) -> int | None:
    """The work that the budget stands for, counted once at start; None where only trials are limited.

    Of minutes, what is left of them but for `finish_seconds`: what the choice, held_out and the report are expected
    to take.
    """
    if budget.work is not None:
        return budget.work
    if budget.minutes is None:
        return None
    seconds = 60 * budget.minutes - seconds_spent
    return max(1, int(max(LEAST_SHARE * seconds, seconds - finish_seconds) / seconds_per_work))


def hard_stop(budget: Budget, finish_seconds: float) -> float:
    """Seconds after which brackets are cut off, so that the run can finish within 10 % of the minutes asked for.

    `finish_seconds` is what the choice, held_out and the report are expected to take.
    """
    if budget.minutes is None:
        return float("inf")
    seconds = 60 * budget.minutes
    return max(LEAST_SHARE * seconds, OVERSHOOT * seconds - finish_seconds)
