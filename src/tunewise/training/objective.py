"""What the members of a loop learn: its rows, the loss of a micro-batch, and what an evaluation remembers of dev.

Axes: A active members, E rows of dev, R rows of a micro-batch, K numbers remembered of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from tunewise.training.batches import Sizes
from tunewise.training.population import Key, Population


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may differ between the members of a loop."""

    learning_rate: float
    weight_decay: float = 0.0
    warmup_share: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A micro-batch: some of the rows of an optimiser step, for the members that still train."""

    rows: list[int]
    """Of train."""
    active: Sequence[int]
    settings: Sequence[Settings]
    """Of the active members."""
    passes: Sequence[int]
    """What the randomness of each pass over the rows is numbered by."""
    consistency: float = 0.0
    """Weight of the divergence between two passes."""

    @property
    def smoothing(self) -> list[float]:
        return [each.label_smoothing for each in self.settings]

    def keys(self, sequence_S: np.ndarray) -> list[Key]:
        """One for each pass; `sequence_S` are the numbers of the batch's sequences in all of train."""
        return [Key(number, sequence_S) for number in self.passes]


class Material(Protocol):
    """Rows that are read, with what is wanted of them."""

    @property
    def sizes(self) -> Sizes: ...

    def subset(self, indices: Sequence[int]) -> Any:
        """These rows, in this order."""


class Objective(Protocol):
    """A loop asks for nothing else, whatever its members learn."""

    train: Any
    """The `Material` that is learnt from."""
    race: Any
    """The `Material` that is read at evaluations."""

    @property
    def numbers(self) -> int:
        """K."""

    def weight(self, rows: np.ndarray) -> float:
        """What these rows of train count together; the loss of an optimiser step is divided by it."""

    def losses(self, population: Population, part: Part) -> Tensor:
        """Summed loss [A] of a micro-batch, each row as it counts."""

    def answers(self, population: Population, rows: Any, run: list[int], active: Sequence[int]) -> Tensor:
        """What is remembered [A, R, K] of some of these rows, float64 on the CPU."""

    def dev_losses(self, answers_EK: Tensor) -> tuple[float, float] | None:
        """Dev loss as it is, and the one to stop by; None where the answers are not numbers."""
