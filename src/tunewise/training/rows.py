"""Tokens with their labels: what a loop trains on and what it is scored on.

Axes: E rows, L labels.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.models.encoder import Tokens
from tunewise.training.batches import Sizes

LEAST_WATCHED, MOST_WATCHED = 100, 300
TRAIN_ROWS_PER_WATCHED = 8
"""Of train, to one dev row that is read while members train, so that reading dev costs less than training.

With up to 1,000 rows always, dev took longer to read than 1,000 rows took to train on for two epochs.
"""


@dataclass(frozen=True)
class Rows:
    """Tokens with the index of each row's label; where a text may have several, 0 or 1 for each, [E, L]."""

    tokens: Tokens
    target_E: np.ndarray

    @functools.cached_property
    def sizes(self) -> Sizes:
        return Sizes.of(self.tokens)

    def subset(self, indices: Sequence[int]) -> "Rows":
        return Rows(self.tokens.of_rows(indices), self.target_E[list(indices)])


def watched_count(train_rows: int) -> int:
    """How many dev rows are read, at most, at evaluations and at looks; what finishes is scored on every row."""
    return min(MOST_WATCHED, max(LEAST_WATCHED, train_rows // TRAIN_ROWS_PER_WATCHED))


def watched(digests: Sequence[str], most: int) -> list[int]:
    """At most `most` rows, those with the smallest digests: the same ones whatever their order and in every bracket."""
    if len(digests) <= most:
        return list(range(len(digests)))
    return sorted(sorted(range(len(digests)), key=lambda i: digests[i])[:most])


def balanced_weights(target_E: np.ndarray, labels: int) -> np.ndarray:
    """Weight of each label [L] so that all that occur weigh the same together; 1 on average over rows."""
    count_L = np.bincount(target_E, minlength=labels)
    present = count_L > 0
    weight_L = np.zeros(labels)
    weight_L[present] = len(target_E) / (present.sum() * count_L[present])
    return weight_L
