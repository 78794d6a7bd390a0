"""How many ranks the answer lies from the target, on average; lower is better."""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.metrics.base import Unit
from tunewise.evaluation.metrics.mean import MeanMetric
from tunewise.evaluation.metrics.ranks import ranks
from tunewise.types import Prediction, Target


class MeanAbsoluteError(MeanMetric):
    """Mean absolute difference of ranks, from 0 to the number of labels less one.

    The answer is the most probable label, as everywhere, so that what is measured is what is served; the median of the
    probabilities, which is the best guess under this metric, would give other answers.
    """

    name = "mae"
    signature = "mae|impl:mean-absolute-rank-difference|answer:mode"
    greater_is_better = False
    unit: Unit = "ranks"
    needs_order = True

    def statistics(
        self, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """Distance of each example, [E, 1]."""
        rank_E2 = ranks(self.name, targets, predictions, labels)
        distance_E1: np.ndarray = np.abs(rank_E2[:, :1] - rank_E2[:, 1:])
        return distance_E1


mae = MeanAbsoluteError()
