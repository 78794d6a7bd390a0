"""Make probabilities mean what they say: one temperature, and how far off they are without it.

Axes: E examples, L labels, B bins.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.errors import ConfigError
from tunewise.types import Prediction

SMALLEST_PROBABILITY = 1e-12
COLDEST, HOTTEST = 0.05, 20.0
"""Between these the temperature is sought; the nearer one is the answer where the optimum lies outside."""


def log_probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Natural logs of the probabilities of the labels, [E, L]; below 1e-12 they count as 1e-12.

    Raises:
        ConfigError: a prediction has no probabilities.
    """
    share_EL = np.zeros((len(predictions), len(labels)))
    for i, prediction in enumerate(predictions):
        if prediction.scores is None:
            raise ConfigError(
                f"calibration: a temperature needs the probability of each label, and row {i} has none. "
                "Use a predictor that gives probabilities."
            )
        share_EL[i] = [prediction.scores.get(label, 0.0) for label in labels]
    log_share_EL: np.ndarray = np.log(np.maximum(share_EL, SMALLEST_PROBABILITY))
    return log_share_EL


def temperature(log_probability_EL: np.ndarray, target_E: np.ndarray, *, balanced: bool = False) -> float:
    """The T that minimises the mean loss of probabilities proportional to p^(1/T); above 1 it softens.

    Guo et al., "On calibration of modern neural networks", 2017, section 4.2. The loss is convex in 1/T, so the root of
    its slope is the answer. `balanced`: every label that occurs among the targets has the same weight, as where the
    metric is macro. Without any example it is 1, which changes nothing.
    """
    if len(target_E) == 0:
        return 1.0
    from scipy.optimize import brentq

    weight_E = _weights(target_E, balanced)
    floor = np.log(SMALLEST_PROBABILITY)
    log_p_EL = np.maximum(np.asarray(log_probability_EL, dtype=np.float64), floor)
    of_target_E = log_p_EL[np.arange(len(target_E)), target_E]

    def slope(inverse: float) -> float:
        scaled_EL = inverse * log_p_EL
        share_EL = np.exp(scaled_EL - scaled_EL.max(axis=1, keepdims=True))
        expected_E = (share_EL * log_p_EL).sum(axis=1) / share_EL.sum(axis=1)
        return float((weight_E * (expected_E - of_target_E)).sum())

    softest, sharpest = 1.0 / HOTTEST, 1.0 / COLDEST
    if slope(softest) >= 0.0:
        # a slope of 0 everywhere means equal probabilities, which no temperature changes
        return HOTTEST if slope(sharpest) > 0.0 else 1.0
    if slope(sharpest) <= 0.0:
        return COLDEST
    return float(1.0 / brentq(slope, softest, sharpest, xtol=1e-8))


def scaled_losses(log_probability_EL: np.ndarray, target_E: np.ndarray, temperature: float) -> np.ndarray:
    """Negative log-probability of each target after scaling, [E] float64, in nats."""
    scaled_EL = np.maximum(np.asarray(log_probability_EL, dtype=np.float64), np.log(SMALLEST_PROBABILITY)) / temperature
    top_E = scaled_EL.max(axis=1)
    total_E = top_E + np.log(np.exp(scaled_EL - top_E[:, None]).sum(axis=1))
    loss_E: np.ndarray = total_E - scaled_EL[np.arange(len(target_E)), target_E]
    return loss_E


def mean_loss(losses_E: np.ndarray, target_E: np.ndarray, *, balanced: bool = False) -> float:
    """Mean of per-example losses, over labels with equal weight where `balanced`."""
    return float((_weights(target_E, balanced) * losses_E).sum())


def expected_calibration_error(
    targets: Sequence[str], predictions: Sequence[Prediction], *, bins: int = 15
) -> float | None:
    """Mean gap between confidence and share of right answers, 0-1; None where a prediction has no probabilities.

    Top-label, `bins` bins of equal width over (0, 1], each weighted by its examples (Guo et al., 2017, eq. 3). With few
    rows per bin it is biased upwards, so compare it only between sets of the same size.
    """
    if not predictions or any(prediction.scores is None for prediction in predictions):
        return None
    confidence_E = np.array([prediction.scores[prediction.text] for prediction in predictions if prediction.scores])
    right_E = np.array([p.text == target for p, target in zip(predictions, targets, strict=True)], dtype=np.float64)
    bin_E = np.clip(np.ceil(confidence_E * bins).astype(np.int64) - 1, 0, bins - 1)
    gap_B = np.bincount(bin_E, weights=confidence_E - right_E, minlength=bins)
    return float(np.abs(gap_B).sum() / len(predictions))


def _weights(target_E: np.ndarray, balanced: bool) -> np.ndarray:
    """Weights that sum to 1."""
    if not balanced:
        return np.full(len(target_E), 1.0 / len(target_E))
    support_L = np.bincount(target_E)
    weight_E: np.ndarray = 1.0 / (support_L[target_E] * (support_L > 0).sum())
    return weight_E
