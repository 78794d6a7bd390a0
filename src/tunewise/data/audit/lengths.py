"""How long the rows are, and how many are longer than the base reads."""

from statistics import median

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data


def check(data: Data, ruler: Ruler) -> list[Finding]:
    """Median and longest length of train and dev, and the rows above the limit; words where tokens are not known."""
    examples = [*data.train, *data.dev]
    texts = [example.texts for example in examples]
    unit = "tokens" if ruler.length_of else "words"
    lengths = ruler.length_of(texts) if ruler.length_of else [sum(len(text.split()) for text in row) for row in texts]
    sentence = f"rows have {median(lengths):g} {unit} at the median, {max(lengths):,} at most."
    found = [Finding(check="lengths", severity="info", sentence=sentence, count=len(examples))]
    if ruler.length_of is None or ruler.max_tokens is None:
        return found
    ids = tuple(e.id for e, length in zip(examples, lengths, strict=True) if length > ruler.max_tokens)
    if ids:
        share = len(ids) / len(examples)
        sentence = (
            f"{len(ids):,} of {len(examples):,} rows ({share:.1%}) are longer than the {ruler.max_tokens:,} tokens the "
            "base reads; `truncation` decides what becomes of them."
        )
        found.append(Finding(check="lengths", severity="warning", sentence=sentence, count=len(ids), ids=ids))
    return found
