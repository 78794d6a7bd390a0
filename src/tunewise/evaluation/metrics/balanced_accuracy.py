"""Recall of each label, averaged with equal weight."""

import numpy as np

from tunewise.evaluation.metrics.counts import Counts, CountsMetric, divide


class BalancedAccuracy(CountsMetric):
    """Mean over the labels that occur among the targets, 0-1; not adjusted for chance."""

    name = "balanced_accuracy"
    signature = "balanced_accuracy|impl:sklearn-definition|adjusted:no|labels:in-targets"
    weighs_labels_equally = True

    def from_counts(self, counts: Counts) -> np.ndarray:
        return counts.mean_over_targets(divide(counts.hit_DL, counts.target_DL))


balanced_accuracy = BalancedAccuracy()
