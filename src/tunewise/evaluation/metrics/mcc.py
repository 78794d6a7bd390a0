"""Matthews correlation of targets and predictions, for any number of labels."""

import numpy as np

from tunewise.evaluation.metrics.counts import Counts, CountsMetric, divide


class Mcc(CountsMetric):
    """-1 to 1; 0 where all targets or all predictions are one label.

    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    All answers outside the labels count as one further label.
    """

    name = "mcc"
    signature = "mcc|impl:gorodkin-2004|undefined:0"

    def from_counts(self, counts: Counts) -> np.ndarray:
        n_D = counts.n_D
        over_D = counts.hit_DL.sum(axis=1) * n_D - (counts.predicted_DL * counts.target_DL).sum(axis=1)
        spread_predicted_D = n_D**2 - (counts.predicted_DL**2).sum(axis=1)
        spread_target_D = n_D**2 - (counts.target_DL**2).sum(axis=1)
        return divide(over_D, np.sqrt(spread_predicted_D * spread_target_D))


mcc = Mcc()
