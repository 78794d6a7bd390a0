"""The losses by which the members of a bracket are compared: temperature-scaled, class-balanced where the metric is.

Those of texts are by token. P members, E race rows, L labels.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.calibration import log_probabilities, scaled_losses, temperature
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.several import label_losses, probabilities
from tunewise.evaluation.texts import text_losses
from tunewise.methods.base import Bracket, Context
from tunewise.types import Prediction


def look_losses(bracket: Bracket, context: Context, rows: tuple[int, ...]) -> np.ndarray:
    """Of every member on the rows of a look, [P, E]; nothing is written for a look."""
    if context.task.kind == "generate":
        loss_PE = bracket.losses(rows)
        diverged_P = np.isnan(loss_PE).all(axis=1)
        # an answer that does not fit the base says nothing; where some members leave more room for it than others,
        # it must not speak for those that cannot read it
        unknown_E = np.isnan(loss_PE[~diverged_P]).any(axis=0)
        return np.where(diverged_P[:, None], np.inf, np.where(unknown_E, 0.0, loss_PE))
    return np.stack([member_losses(row, context, rows) for row in bracket.predictions(rows)])


def member_losses(predictions: Sequence[Prediction], context: Context, rows: Sequence[int] | None = None) -> np.ndarray:
    """Of one member on the race rows, or on these of them, [E]; infinite where it diverged, NaN where not known."""
    race = context.race if rows is None else [context.race[row] for row in rows]
    if not predictions:  # it diverged
        return np.full(len(race), np.inf)
    if context.task.kind == "generate":
        return text_losses(predictions)
    if predictions[0].scores is None:  # labels that were written have no probabilities
        return np.full(len(race), np.nan)
    if context.several:
        share_EL = probabilities(predictions, context.labels)
        return label_losses(share_EL, context.wanted(race))
    target_E = context.target_indices(race)
    log_EL = log_probabilities(predictions, context.labels)
    balanced = METRICS.get(context.task.metric).weighs_labels_equally
    scaled_E = scaled_losses(log_EL, target_E, temperature(log_EL, target_E, balanced=balanced))
    if not balanced:
        return scaled_E
    counts_L = np.bincount(target_E, minlength=len(context.labels))
    weighted_E: np.ndarray = scaled_E * (len(target_E) / (np.count_nonzero(counts_L) * counts_L[target_E]))
    return weighted_E
