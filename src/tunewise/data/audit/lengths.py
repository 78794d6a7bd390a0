"""How long the rows are, and how many are longer than the base reads."""

from collections.abc import Sequence
from statistics import median

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.types import Example


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """Median and longest length of train and dev, of texts to be written too, and the rows above the limit.

    Above it together with their target as well, where the base reads and writes in one window. In words where tokens
    are not known. Of a conversation all turns before the answer are counted.
    """
    examples = [*data.train, *data.dev]
    lengths = _lengths([_read(example) for example in examples], ruler)
    found = [_spread("rows have", lengths, ruler)]
    targets = [0] * len(examples)
    if data.kind == "generate":
        targets = _lengths([(str(e.target),) for e in examples], ruler)
        found.append(_spread("targets have", targets, ruler))
    if ruler.length_of is None or ruler.max_tokens is None:
        return found
    limit, rows = ruler.max_tokens, f"of {len(examples):,} rows"
    ids = tuple(e.id for e, length in zip(examples, lengths, strict=True) if length > limit)
    if ids:
        sentence = (
            f"{len(ids):,} {rows} ({len(ids) / len(examples):.1%}) are longer than the {limit:,} tokens the base "
            "reads; `truncation` decides what becomes of them."
        )
        found.append(Finding(check="lengths", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    if data.kind == "generate" and ruler.answers_too:
        tight = zip(examples, lengths, targets, strict=True)
        ids = tuple(e.id for e, length, target in tight if length <= limit < length + target)
        if ids:
            sentence = (
                f"{len(ids):,} {rows} ({len(ids) / len(examples):.1%}) are longer than {limit:,} tokens only together "
                "with their target, and the base reads and writes in one window: what is read gives way, which is "
                "counted, and a target that has no room even so is not learnt."
            )
            found.append(Finding(check="lengths", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    return found


def _read(example: Example) -> tuple[str, ...]:
    return ("\n".join(turn.content for turn in example.messages),) if example.messages else example.texts


def _lengths(texts: Sequence[tuple[str, ...]], ruler: Ruler) -> list[int]:
    return ruler.length_of(texts) if ruler.length_of else [sum(len(text.split()) for text in row) for row in texts]


def _spread(what: str, lengths: Sequence[int], ruler: Ruler) -> Finding:
    unit = "tokens" if ruler.length_of else "words"
    sentence = f"{what} {median(lengths):g} {unit} at the median, {max(lengths):,} at most."
    return Finding(check="lengths", severity="info", sentence=sentence, count=len(lengths))
