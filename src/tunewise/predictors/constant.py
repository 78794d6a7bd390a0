"""Give every text the same answer: how often each label was seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from tunewise.errors import BundleError
from tunewise.models.encoder import Encoder
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_settings, write_settings
from tunewise.predictors.several import Thresholds, from_settings, from_shares, to_settings
from tunewise.types import Example, Prediction

SETTINGS = "constant.json"


class ConstantPredictor:
    """The most frequent label; of equally frequent ones, the first. With thresholds, all labels above theirs."""

    kind = "constant"
    base: Encoder | None = None

    def __init__(self, *, labels: tuple[str, ...], shares: Sequence[float], thresholds: Thresholds = None) -> None:
        """`shares` of the rows that have each label; they are scaled to sum to 1 unless there may be several.

        Raises:
            BundleError: there is not a share of 0 or more for each label.
        """
        total = float(sum(shares)) if thresholds is None else 1.0
        if len(shares) != len(labels) or not total > 0 or min(shares) < 0:
            raise BundleError(
                f"constant: expected a share of 0 or more for each of {len(labels)} labels, got {list(shares)}."
            )
        self.labels = labels
        self.shares = tuple(float(share) / total for share in shares)
        self.thresholds = thresholds

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        answer = from_shares(np.array([self.shares]), self.labels, self.thresholds)[0]
        return [answer for _ in examples]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(
            folder / SETTINGS, {"labels": self.labels, "shares": self.shares, **to_settings(self.thresholds)}
        )

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        settings = read_settings(folder / SETTINGS, {"labels": list, "shares": list})
        labels = tuple(settings["labels"])
        return cls(labels=labels, shares=settings["shares"], thresholds=from_settings(settings, labels))
