"""Answer with one label, the most probable; or, where a text may have several, with all above their thresholds.

E examples, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunewise.errors import BundleError
from tunewise.types import Prediction, target_text

HALF = 0.5
Thresholds = tuple[float, ...] | None
"""Of each label, the probability from which it is given; None where a text has one label."""


def halves(labels: int) -> tuple[float, ...]:
    """A threshold of one half for each label: as likely as not."""
    return (HALF,) * labels


def from_logits(logits_EL: np.ndarray, labels: tuple[str, ...], thresholds: Thresholds) -> list[Prediction]:
    """Softmax over the labels; with thresholds each label's own sigmoid."""
    if thresholds is None:
        share_EL = np.exp(logits_EL - logits_EL.max(axis=1, keepdims=True))
        return from_shares(share_EL / share_EL.sum(axis=1, keepdims=True), labels)
    # tanh does not overflow where exp does
    return from_shares(0.5 * (1.0 + np.tanh(0.5 * logits_EL)), labels, thresholds)


def from_shares(share_EL: np.ndarray, labels: tuple[str, ...], thresholds: Thresholds = None) -> list[Prediction]:
    """One prediction per row of probabilities; of equal ones the first label wins."""
    if thresholds is None:
        return [
            Prediction(text=labels[int(share_L.argmax())], scores=dict(zip(labels, share_L.tolist(), strict=True)))
            for share_L in share_EL
        ]
    return [_several(dict(zip(labels, share_L.tolist(), strict=True)), thresholds) for share_L in share_EL]


def judged_again(predictions: Sequence[Prediction], thresholds: tuple[float, ...]) -> list[Prediction]:
    """The same probabilities against other thresholds."""
    again = [_several(prediction.scores or {}, thresholds) for prediction in predictions]
    return [replace(old, text=new.text, labels=new.labels) for old, new in zip(predictions, again, strict=True)]


def _several(scores: Mapping[str, float], thresholds: tuple[float, ...]) -> Prediction:
    given = tuple(label for (label, share), low in zip(scores.items(), thresholds, strict=True) if share >= low)
    return Prediction(text=target_text(given), labels=given, scores=scores)


def to_settings(thresholds: Thresholds) -> dict[str, Any]:
    """What is added to a predictor's settings file; nothing where a text has one label."""
    return {} if thresholds is None else {"thresholds": list(thresholds)}


def from_settings(settings: Mapping[str, Any], labels: Sequence[str]) -> Thresholds:
    """What `to_settings` wrote.

    Raises:
        BundleError: it is not one number from 0 to 1 for each label.
    """
    found = settings.get("thresholds")
    if found is None:
        return None
    numbers = isinstance(found, list) and all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in found)
    if not numbers or len(found) != len(labels):
        raise BundleError(
            f"predictor: expected a threshold from 0 to 1 for each of {len(labels)} labels, found {found!r}. "
            "The bundle is damaged."
        )
    return tuple(map(float, found))
