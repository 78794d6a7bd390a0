"""Label names that only look different, and rare ones that look mistyped."""

from collections import Counter

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.data.normal import look_alike, look_alike_sentence

RARE = 5
"""Rows from which on a label is taken to be meant."""
TIMES = 10
"""Times the rows of a label that another must have to be what was meant."""
LONG = 5
"""Letters from which on a single wrong one is a slip rather than another name."""


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """One warning for each group of labels that differ by case, spaces, Unicode form or how a number is written.

    And one for each rare label that is one letter away from a common one. Texts to be written are no labels.
    """
    if data.kind != "classify":
        return []
    rows = (*data.train, *data.dev)
    found = []
    for group in look_alike(data.labels):
        ids = tuple(e.id for e in rows if not set(group).isdisjoint(e.labels))
        sentence = look_alike_sentence(group)
        found.append(Finding(check="label_names", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    counts = Counter(label for example in rows for label in example.labels)
    for label, meant in _mistyped(counts).items():
        ids = tuple(e.id for e in rows if label in e.labels)
        sentence = (
            f"the label '{label}' has {_rows(counts[label])} and is one letter away from '{meant}', which has "
            f"{_rows(counts[meant])}. If it is a slip, correct it in the file: it counts as a class of its own."
        )
        found.append(Finding(check="label_names", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    return found


def _mistyped(counts: Counter[str]) -> dict[str, str]:
    """For each label that looks mistyped, the one that was meant."""
    found = {}
    for label in sorted(label for label, count in counts.items() if count < RARE and _is_word(label)):
        near = [other for other, count in counts.items() if count >= TIMES * counts[label] and _one_off(label, other)]
        if near:
            found[label] = min(near, key=lambda other: (-counts[other], other))
    return found


def _is_word(label: str) -> bool:
    """A number at the end of a name is no slip."""
    return len(label) >= LONG and not any(c.isdigit() for c in label)


def _one_off(label: str, other: str) -> bool:
    """Whether one letter was left out, put in, replaced by another, or exchanged with the next."""
    short, long = sorted((label, other), key=len)
    if label == other or len(long) - len(short) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    replaced = short[start + 1 :] == long[start + 1 :]
    exchanged = short[start : start + 2] == long[start : start + 2][::-1] and short[start + 2 :] == long[start + 2 :]
    return replaced or exchanged


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
