"""Answers that may hold several labels or none: the loss they are ranked by, and where each label's threshold lies.

Axes: E examples, L labels, N cells of a label's or all labels' scores.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.errors import ConfigError
from tunewise.evaluation.calibration import COLDEST, HOTTEST, SMALLEST_PROBABILITY
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.base import Metric, Tuned
from tunewise.predictors.several import HALF, halves
from tunewise.types import Prediction

FEW_POSITIVES = 10
"""With fewer rows of a label its threshold would follow single rows, and stays one half."""


def check_several(metric: Metric, *, several: bool) -> None:
    """Raises ConfigError where texts may have several labels and the metric measures one."""
    if several and metric.several is None:
        fit = ", ".join(name for name in METRICS if METRICS.get(name).several is not None)
        raise ConfigError(
            f"{metric.name}: it measures one label per text, and here a text may have several. Choose one of {fit}."
        )


def probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Probability of each label, [E, L].

    Raises:
        ConfigError: a prediction has none.
    """
    if any(prediction.scores is None for prediction in predictions):
        raise ConfigError("thresholds: they need the probability of each label, and an answer has none.")
    rows = [[(prediction.scores or {})[label] for label in labels] for prediction in predictions]
    return np.array(rows, dtype=np.float64).reshape(-1, len(labels))


def label_losses(share_EL: np.ndarray, wanted_EL: np.ndarray) -> np.ndarray:
    """Mean over the labels of each example's cross-entropy, at the temperature that is best for all, [E], in nats.

    Every label counts the same in it, however rare, so there is no other weighting for metrics that ask for that.
    """
    logit_EL = _logits(share_EL)
    if len(logit_EL) == 0:
        return np.zeros(0)
    from scipy.optimize import minimize_scalar

    bounds = (np.log(1.0 / HOTTEST), np.log(1.0 / COLDEST))
    found = minimize_scalar(
        lambda sharpness: float(_cross_entropy(np.exp(sharpness) * logit_EL, wanted_EL).mean()),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return _cross_entropy(float(np.exp(found.x)) * logit_EL, wanted_EL)


def _logits(share_EL: np.ndarray) -> np.ndarray:
    share_EL = np.clip(share_EL, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)
    logit_EL: np.ndarray = np.log(share_EL) - np.log1p(-share_EL)
    return logit_EL


def _cross_entropy(logit_EL: np.ndarray, wanted_EL: np.ndarray) -> np.ndarray:
    loss_E: np.ndarray = (np.logaddexp(0.0, logit_EL) - wanted_EL * logit_EL).mean(axis=1)
    return loss_E


def find_thresholds(share_EL: np.ndarray, wanted_EL: np.ndarray, tuned: Tuned) -> tuple[float, ...]:
    """For each label, the probability from which it is given: where F1 on these rows, smoothed, is highest.

    Lipton et al., "Optimal thresholding of classifiers to maximize F1 measure", 2014. For macro F1 each label has its
    own; for micro F1 they share one. A label with few rows here, or with equal scores everywhere, keeps one half.
    """
    labels = int(share_EL.shape[1])
    if tuned == "none":
        return halves(labels)
    if tuned == "all":
        return (_threshold(share_EL.ravel(), wanted_EL.ravel()),) * labels
    return tuple(_threshold(share_EL[:, i], wanted_EL[:, i]) for i in range(labels))


def _threshold(share_N: np.ndarray, wanted_N: np.ndarray) -> float:
    """The best cut between two scores, judged by the mean F1 of the cuts around it."""
    positives = int(wanted_N.sum())
    if positives < FEW_POSITIVES or positives == len(wanted_N):
        return HALF
    order = np.argsort(-share_N, kind="stable")
    sorted_N = share_N[order]
    said = np.arange(len(order) + 1)
    f1 = 2.0 * np.concatenate([[0.0], np.cumsum(wanted_N[order])]) / (said + positives)
    # wide enough for luck to average out, narrow enough not to move the best cut of well separated scores
    reach = max(1, round(positives / 4))
    padded = np.pad(f1, reach, mode="edge")
    smooth = np.convolve(padded, np.full(2 * reach + 1, 1.0 / (2 * reach + 1)), mode="valid")
    # a cut after k answers is possible where the k-th score and the next differ
    cuts = np.flatnonzero(sorted_N[:-1] > sorted_N[1:]) + 1
    if len(cuts) == 0:
        return HALF
    best = int(cuts[smooth[cuts].argmax()])
    if smooth[best] <= smooth[int((sorted_N >= HALF).sum())]:
        return HALF
    return float((sorted_N[best - 1] + sorted_N[best]) / 2)


def threshold_note(wanted_EL: np.ndarray, labels: Sequence[str], tuned: Tuned) -> str:
    """What is said about thresholds before they are found: they depend on the rows' labels only."""
    if tuned == "none":
        return "a label is given where its probability is one half or more."
    if tuned == "all":
        return f"a label is given above one threshold for all labels, found on {len(wanted_EL):,} rows of dev."
    few = [label for label, n in zip(labels, wanted_EL.sum(axis=0), strict=True) if n < FEW_POSITIVES]
    shown = ", ".join(map(repr, few[:10])) + (" ..." if len(few) > 10 else "")
    kept = f"; {len(few)} of {len(labels)} have fewer than {FEW_POSITIVES} rows there and keep one half: {shown}"
    rows = f"{len(wanted_EL):,} rows of dev"
    return f"each label is given above a threshold of its own, found on {rows}{kept if few else ''}."
