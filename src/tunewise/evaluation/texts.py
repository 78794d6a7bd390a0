"""How well texts were foreseen, where candidates that write them are compared."""

from collections.abc import Sequence

import numpy as np

from tunewise.types import Prediction


def text_losses(predictions: Sequence[Prediction]) -> np.ndarray:
    """Negative natural log-probability of each row's target by token, [E] float64; NaN where nothing is known of it."""
    return np.array([prediction.target_loss for prediction in predictions], dtype=np.float64)


def means_compared(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Mean loss of each of these candidates [P] on the rows that all of them know, float64.

    Those of which nothing is known, and all where no row is known of each, have an infinite one.
    """
    loss_PE = np.stack(losses)
    some_P = ~np.isnan(loss_PE).all(axis=1)
    common_E = ~np.isnan(loss_PE[some_P]).any(axis=0)
    means_P = np.full(len(loss_PE), np.inf)
    if common_E.any():
        means_P[some_P] = loss_PE[some_P][:, common_E].mean(axis=1)
    return means_P


def mean_known(loss_E: np.ndarray) -> float:
    """Mean of the losses that are known; NaN where none is."""
    known_E = loss_E[~np.isnan(loss_E)]
    return float(known_E.mean()) if len(known_E) else float("nan")
