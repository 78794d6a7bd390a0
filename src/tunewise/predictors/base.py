"""What answers: a Predictor knows how to predict, to be saved and to be loaded; it knows nothing of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from tunewise.models.encoder import Encoder
from tunewise.predictors.several import Thresholds
from tunewise.types import Example, Prediction

Bases = Callable[[str], Encoder]
"""Gives the loaded base for the name in a manifest; several predictors share one."""


@runtime_checkable
class Predictor(Protocol):
    """One of five ways to answer (constant, prompted, retrieved, head, adapted) or an ensemble of them."""

    kind: str
    labels: tuple[str, ...]
    base: Encoder | None
    """What it computes on; None for a constant."""
    thresholds: Thresholds
    """May be set anew, once it is known where each label's probability is high enough."""

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """One prediction per example, in order; never depends on the other examples or on how they are batched."""

    def save(self, folder: Path) -> None:
        """Write all it needs, but not the base, into an empty folder (JSON and safetensors only)."""

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        """The predictor that `save` wrote there.

        Raises:
            BundleError: a file is missing, or its shapes do not fit the base.
        """
