"""How well texts were foreseen, where candidates that write them are compared."""

from collections.abc import Sequence

import numpy as np

from tunewise.types import Prediction


def text_losses(predictions: Sequence[Prediction]) -> np.ndarray:
    """Negative natural log-probability of each row's target by token, [E] float64; NaN where nothing is known of it."""
    return np.array([prediction.target_loss for prediction in predictions], dtype=np.float64)


def mean_known(loss_E: np.ndarray) -> float:
    """Mean of the losses that are known; NaN where none is."""
    known_E = loss_E[~np.isnan(loss_E)]
    return float(known_E.mean()) if len(known_E) else float("nan")
