"""Give every text the same answer: how often each label was seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tunewise.errors import BundleError
from tunewise.models.encoder import Encoder
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_settings, write_settings
from tunewise.types import Example, Prediction

SETTINGS = "constant.json"


class ConstantPredictor:
    """The most frequent label; of equally frequent ones, the first."""

    kind = "constant"
    base: Encoder | None = None

    def __init__(self, *, labels: tuple[str, ...], shares: Sequence[float]) -> None:
        total = float(sum(shares))
        if len(shares) != len(labels) or not total > 0 or min(shares) < 0:
            raise BundleError(
                f"constant: expected a share of 0 or more for each of {len(labels)} labels, got {list(shares)}."
            )
        self.labels = labels
        self.shares = tuple(float(share) / total for share in shares)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        scores = dict(zip(self.labels, self.shares, strict=True))
        best = max(self.labels, key=scores.__getitem__)
        return [Prediction(text=best, scores=scores) for _ in examples]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder / SETTINGS, {"labels": self.labels, "shares": self.shares})

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        settings = read_settings(folder / SETTINGS, {"labels": list, "shares": list})
        return cls(labels=tuple(settings["labels"]), shares=settings["shares"])
