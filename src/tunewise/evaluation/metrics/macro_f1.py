"""F1 of each label, averaged with equal weight."""

import numpy as np

from tunewise.evaluation.metrics.base import Tuned
from tunewise.evaluation.metrics.counts import Counts, CountsMetric


class MacroF1(CountsMetric):
    """Mean over the labels that occur among the targets of the set, 0-1.

    A label nobody asks for is left out rather than counted as 0 (the caution says so); saying it still costs the
    recall of the label that was wanted. In a resample the labels are those of the resample.
    """

    name = "macro_f1"
    signature = "macro_f1|impl:sklearn-definition|zero_division:0|labels:in-targets"
    weighs_labels_equally = True
    several: Tuned | None = "each"

    def from_counts(self, counts: Counts) -> np.ndarray:
        return counts.mean_over_targets(counts.f1_DL())


macro_f1 = MacroF1()
