"""Mean negative log-probability of the target, in nats; lower is better."""

from collections.abc import Sequence

import numpy as np

from tunewise.errors import ConfigError
from tunewise.evaluation.metrics.base import Unit
from tunewise.evaluation.metrics.mean import MeanMetric
from tunewise.types import Prediction, Target

SMALLEST_PROBABILITY = 1e-12
"""Smaller ones count as this, so that one answer that was ruled out costs 27.6 nats and not infinity."""


class LogLoss(MeanMetric):
    """-ln p(target), averaged; a target the predictor gives no probability counts as 1e-12."""

    name = "log_loss"
    signature = "log_loss|base:e|smallest:1e-12"
    greater_is_better = False
    unit: Unit = "nats"

    def statistics(
        self, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """Loss of each example, [E, 1].

        Raises:
            ConfigError: a prediction has no probabilities.
        """
        share_E = np.empty(len(targets))
        for i, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
            if prediction.scores is None:
                raise ConfigError(
                    f"log_loss: it needs a probability for each label, and the predictor gave none for row {i}. "
                    "Choose a metric that reads labels only, for example macro_f1."
                )
            share_E[i] = prediction.scores.get(str(target), 0.0)
        loss_E = -np.log(np.maximum(share_E, SMALLEST_PROBABILITY))
        return loss_E[:, None]


log_loss = LogLoss()
