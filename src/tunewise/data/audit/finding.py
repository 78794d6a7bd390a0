"""One thing that an audit found, and the ruler that lengths are measured with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence about the data, how bad it is, and the rows it is about."""

    check: str
    severity: Severity
    sentence: str
    count: int
    """Rows concerned, unless the sentence counts something else."""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """How the base counts tokens, and how many it reads."""

    length_of: Callable[[Sequence[tuple[str, ...]]], list[int]] | None = None
    max_tokens: int | None = None
    answers_too: bool = False
    """Whether what is written stands in the same window as what is read."""
