"""Share of answers that are right."""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.metrics.base import near_the_edge
from tunewise.evaluation.metrics.mean import MeanMetric
from tunewise.types import Prediction, Target


class Accuracy(MeanMetric):
    """Hits divided by examples, 0-1; equal to micro-averaged F1 where each example has one label."""

    name = "accuracy"
    signature = "accuracy|impl:exact-match"
    binary = True

    def statistics(
        self, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        known: set[Target] = set(labels)
        return np.array(
            [
                [float(prediction.text == target and target in known)]
                for target, prediction in zip(targets, predictions, strict=True)
            ]
        ).reshape(-1, 1)

    def caution(self, statistics_EK: np.ndarray, n_labels: int) -> str | None:
        return near_the_edge(int(statistics_EK[:, 0].sum()), len(statistics_EK))


accuracy = Accuracy()
