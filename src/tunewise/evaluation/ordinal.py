"""What is said of answers on an ordered scale whatever the task's metric: how many are right, and how far off."""

from collections.abc import Sequence

import numpy as np

from tunewise.errors import ConfigError
from tunewise.evaluation.intervals import interval
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.base import Metric
from tunewise.types import Prediction, Score, Target

REPORTED = ("accuracy", "quadratic_kappa", "mae")


def ordinal_scores(
    targets: Sequence[Target],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    clusters: Sequence[str | None] | None = None,
    level: float = 0.95,
    rng: np.random.Generator,
    draws: int = 2000,
) -> list[Score]:
    """Accuracy, quadratic kappa and mean absolute error in ranks; `labels` go from the lowest to the highest."""
    return [
        interval(
            metric,
            metric.statistics(targets, predictions, labels),
            n_labels=len(labels),
            clusters=clusters,
            level=level,
            rng=rng,
            draws=draws,
        )
        for metric in map(METRICS.get, REPORTED)
    ]


def check_order(metric: Metric, *, ordered: bool | None) -> None:
    """Raises ConfigError where the metric measures distances and the labels are known to have no order."""
    if metric.needs_order and ordered is False:
        raise ConfigError(
            f"{metric.name}: it measures how far off an answer is, and these labels have no order. Give "
            "`order: [...]` with the labels from the lowest to the highest, or choose another metric, for example "
            "accuracy."
        )
