"""Agreement of targets and predictions beyond chance."""

import numpy as np

from tunewise.evaluation.metrics.counts import Counts, CountsMetric, divide


class CohenKappa(CountsMetric):
    """(observed - expected) / (1 - expected), at most 1; 0 where all targets and predictions are one same label.

    Cohen, "A coefficient of agreement for nominal scales", 1960; unweighted.
    """

    name = "cohen_kappa"
    signature = "cohen_kappa|impl:cohen-1960|weights:none|undefined:0"

    def from_counts(self, counts: Counts) -> np.ndarray:
        n_D = counts.n_D
        chance_D = (counts.predicted_DL * counts.target_DL).sum(axis=1)
        return divide(counts.hit_DL.sum(axis=1) * n_D - chance_D, n_D**2 - chance_D)


cohen_kappa = CohenKappa()
