"""The order of the labels, where they have one: given, or that of their numbers."""

import re
from collections.abc import Iterable, Sequence

from tunewise.config import Task
from tunewise.errors import DataError, did_you_mean

WHOLE = re.compile(r"[-+\u2212]?\d+(\.0*)?")
FEWEST, MOST = 3, 11
"""Whole numbers from 0 to 10 at most are taken for a scale; more of them are more likely names."""


def ordered(labels: Iterable[str], task: Task) -> tuple[tuple[str, ...] | None, str | None]:
    """The labels from the lowest to the highest, or None where they have no order; and the sentence that says so.

    Raises:
        DataError: `order` does not hold exactly the labels found, or no order is given and the labels are no numbers.
    """
    found = sorted(labels)
    if task.order is not None:
        _check_same(found, task.order)
        return task.order, None
    numbers = all(WHOLE.fullmatch(label.strip()) for label in found)
    if task.ordinal is False or (task.ordinal is None and not (numbers and FEWEST <= len(found) <= MOST)):
        return None, None
    if not numbers:
        name = next(label for label in found if not WHOLE.fullmatch(label.strip()))
        raise DataError(
            f"task: the labels should have an order, but {name!r} is not a whole number. "
            "Give `order: [...]` with the labels from the lowest to the highest."
        )
    by_number = tuple(sorted(found, key=lambda label: (float(label.strip().replace("\u2212", "-")), label)))
    how = "as the task says" if task.ordinal else "detected; set `ordinal: false` if the numbers are only names"
    return by_number, f"the labels are ordered, {_shown(by_number)} ({how})."


def _check_same(found: Sequence[str], order: Sequence[str]) -> None:
    unplaced = [label for label in found if label not in order]
    if unplaced:
        raise DataError(
            f"task: `order` must hold every label, but {unplaced[0]!r} of the training rows is not in it"
            f"{_more(unplaced)}.{did_you_mean(unplaced[0], order)}"
        )
    unknown = [label for label in order if label not in found]
    if unknown:
        raise DataError(
            f"task: `order` names {unknown[0]!r}, which no training row has{_more(unknown)}."
            f"{did_you_mean(unknown[0], found)}"
        )


def _more(labels: Sequence[str]) -> str:
    return f" (and {len(labels) - 1} more)" if len(labels) > 1 else ""


def _shown(labels: Sequence[str]) -> str:
    return " < ".join(labels if len(labels) <= MOST else (*labels[:3], "...", *labels[-2:]))
