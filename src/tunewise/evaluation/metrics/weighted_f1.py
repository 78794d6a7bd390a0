"""F1 of each label, averaged with the number of its targets as weight."""

import numpy as np

from tunewise.evaluation.metrics.base import Tuned
from tunewise.evaluation.metrics.counts import Counts, CountsMetric, divide


class WeightedF1(CountsMetric):
    """0-1; unlike accuracy it also charges the label that was said wrongly."""

    name = "weighted_f1"
    signature = "weighted_f1|impl:sklearn-definition|zero_division:0"
    several: Tuned | None = "each"

    def from_counts(self, counts: Counts) -> np.ndarray:
        return divide((counts.f1_DL() * counts.target_DL).sum(axis=1), counts.n_D)


weighted_f1 = WeightedF1()
