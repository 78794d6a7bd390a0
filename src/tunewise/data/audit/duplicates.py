"""Rows that say the same: within train, and between what is learnt from and what is measured on."""

from collections import defaultdict
from collections.abc import Sequence

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.data.normal import normal_texts
from tunewise.types import Example


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """Repeats within train, and rows of dev whose text is in train; case and spacing are ignored."""
    return [*_repeats(data.train), *leakage(data.train, data.dev, name="dev")]


def leakage(train: Sequence[Example], other: Sequence[Example], *, name: str) -> list[Finding]:
    """At most one finding: the rows of `other` whose text is also in train."""
    known = {normal_texts(example.texts) for example in train}
    ids = tuple(example.id for example in other if normal_texts(example.texts) in known)
    if not ids:
        return []
    sentence = (
        f"{len(ids):,} of {len(other):,} {name} rows have a text that is also in train: scores on {name} flatter "
        "whatever remembers it."
    )
    return [Finding(check="duplicates", severity="problem", sentence=sentence, count=len(ids), ids=ids)]


def _repeats(train: Sequence[Example]) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for example in train:
        groups[normal_texts(example.texts)].append(example.id)
    repeated = [ids for ids in groups.values() if len(ids) > 1]
    if not repeated:
        return []
    extra = sum(len(ids) - 1 for ids in repeated)
    sentence = (
        f"{extra:,} of {len(train):,} train rows repeat the text of an earlier one ({len(repeated):,} texts stand more "
        "than once, but for case and spacing)."
    )
    ids = tuple(name for group in repeated for name in group)
    return [Finding(check="duplicates", severity="warning", sentence=sentence, count=extra, ids=ids)]
