"""F1 of all labels counted together, so that a frequent label weighs more."""

import numpy as np

from tunewise.evaluation.metrics.base import Tuned
from tunewise.evaluation.metrics.counts import Counts, CountsMetric, divide


class MicroF1(CountsMetric):
    """2 hits / (labels said + labels wanted), 0-1; equal to accuracy where each text has one label."""

    name = "micro_f1"
    signature = "micro_f1|impl:sklearn-definition|zero_division:0"
    several: Tuned | None = "all"

    def from_counts(self, counts: Counts) -> np.ndarray:
        both_D = counts.predicted_DL.sum(axis=1) + counts.target_DL.sum(axis=1)
        return divide(2.0 * counts.hit_DL.sum(axis=1), both_D)


micro_f1 = MicroF1()
