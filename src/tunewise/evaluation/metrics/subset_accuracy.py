"""Share of texts whose labels are all right and none too many."""

from collections.abc import Sequence

import numpy as np

from tunewise.evaluation.metrics.base import Tuned, near_the_edge
from tunewise.evaluation.metrics.mean import MeanMetric
from tunewise.types import Prediction, Target


class SubsetAccuracy(MeanMetric):
    """Exact matches of the set of labels, 0-1; a text without labels is matched by saying none."""

    name = "subset_accuracy"
    signature = "subset_accuracy|impl:exact-set-match"
    binary = True
    several: Tuned | None = "none"

    def statistics(
        self, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        known = set(labels)
        hits = [
            known.issuperset(wanted := {target} if isinstance(target, str) else set(target))
            and wanted == ({said.text} if said.labels is None else set(said.labels))
            for target, said in zip(targets, predictions, strict=True)
        ]
        return np.array(hits, dtype=np.float64)[:, None]

    def caution(self, statistics_EK: np.ndarray, n_labels: int) -> str | None:
        return near_the_edge(int(statistics_EK[:, 0].sum()), len(statistics_EK))


subset_accuracy = SubsetAccuracy()
