"""Rows that are read once, at the end, to report; until then only their hash is known."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tunewise.types import Example


@dataclass(kw_only=True)
class Sealed:
    """held_out behind a seal that counts its openings: a fence against accidents, not a vault."""

    fingerprint: str
    """sha256 of the file's bytes, or of the content of the rows that were split off."""
    source: str
    n: int | None
    """Rows; None until a given file is opened."""
    read: Callable[[], tuple[tuple[Example, ...], tuple[str, ...]]] = field(repr=False)
    """Gives the examples, and sentences about what was read."""
    about: int | None = None
    """Rows that a given file is expected to have by its size, where train is a file too."""
    opened: int = 0
    notes: tuple[str, ...] = ()
    """Sentences about the rows, known once they were read."""

    def open(self) -> tuple[Example, ...]:
        """The examples; every call is counted, also one that fails.

        Raises:
            DataError: the file has changed since the start, cannot be read, or holds labels that train lacks.
        """
        self.opened += 1
        examples, self.notes = self.read()
        self.n = len(examples)
        return examples
