"""Which languages the rows are written in, guessed on a sample.

Lui & Baldwin 2012, "langid.py: an off-the-shelf language identification tool", in the py3langid implementation.
"""

from collections import defaultdict

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.seeding import generator

SAMPLE = 500
MIN_CHARACTERS = 20
MIN_ROWS = 3
"""A language met less often is more likely a wrong guess."""
MARGIN = 15.0
"""Natural-log likelihood by which a language must beat English; short English texts with names come to about 10."""


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """The share of a sample that is not English, by language; texts under 20 characters are not guessed at."""
    # by content, so that the sample does not depend on the order of the file
    rows = sorted((e for e in data.train if len(" ".join(e.texts)) >= MIN_CHARACTERS), key=lambda e: (e.digest, e.id))
    if not rows:
        return []
    picks = generator(0, "audit", "languages").permutation(len(rows))[:SAMPLE]
    by_language: dict[str, list[str]] = defaultdict(list)
    for i in picks:
        by_language[_language(" ".join(rows[i].texts))].append(rows[i].id)
    foreign = {name: ids for name, ids in by_language.items() if name != "en" and len(ids) >= MIN_ROWS}
    count = sum(map(len, foreign.values()))
    if not count:
        sentence = f"English, as far as a sample of {len(picks):,} rows shows."
        return [Finding(check="languages", severity="info", sentence=sentence, count=0)]
    named = ", ".join(
        f"{name} {len(ids):,}" for name, ids in sorted(foreign.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    sentence = (
        f"{count / len(picks):.1%} of a sample of {len(picks):,} rows is not English by an automatic guess ({named})."
    )
    ids = tuple(name for group in foreign.values() for name in group)
    return [Finding(check="languages", severity="warning", sentence=sentence, count=count, ids=ids)]


def _language(text: str) -> str:
    import py3langid

    ranked = py3langid.rank(text)
    best, likelihood = ranked[0]
    return str(best) if likelihood - dict(ranked)["en"] > MARGIN else "en"
