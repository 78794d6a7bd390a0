"""Where targets and answers stand in the order of the labels."""

from collections.abc import Sequence

import numpy as np

from tunewise.errors import DataError
from tunewise.types import Prediction, Target


def ranks(name: str, targets: Sequence[Target], predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Rank of each target and of its answer, from 0, [E, 2] float64.

    An answer outside the labels stands as far from its target as any label does.

    Raises:
        DataError: a target is not among the labels.
    """
    place: dict[Target, float] = {label: float(rank) for rank, label in enumerate(labels)}
    highest = float(len(labels) - 1)
    rank_E2 = np.empty((len(targets), 2))
    for i, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        if target not in place:
            raise DataError(f"{name}: the target {target!r} of row {i} has no place among the ordered labels.")
        wanted = place[target]
        farthest = 0.0 if 2 * wanted > highest else highest
        rank_E2[i] = wanted, place.get(prediction.text, farthest)
    return rank_E2
