"""Label names that only look different."""

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.data.normal import look_alike, look_alike_sentence


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """One warning for each group of labels that differ by case, spaces, Unicode form or how a number is written."""
    found = []
    for group in look_alike(data.labels):
        ids = tuple(e.id for e in (*data.train, *data.dev) if not set(group).isdisjoint(e.labels))
        sentence = look_alike_sentence(group)
        found.append(Finding(check="label_names", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    return found
