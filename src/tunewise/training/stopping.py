"""Which step of each member was best on dev so far, and when a member has stopped getting better.

Axes: P members, E race rows, L labels, K temperatures.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from tunewise.training.label_loss import label_losses
from tunewise.types import Curve

TEMPERATURES = tuple(2.0 ** (k / 4) for k in range(-8, 17))
"""From a quarter to sixteen: a grid, so that the scaled loss is the same on every machine."""


class Course(StrEnum):
    """How a member stands."""

    TRAINING = "training"
    STOPPED = "stopped"
    DIVERGED = "diverged"


@dataclass
class Member:
    """One member's record: its course, its curves, and where it was best."""

    course: Course = Course.TRAINING
    reason: str | None = None
    best_loss: float = float("inf")
    """Dev loss at the best temperature."""
    best_step: int = -1
    worse: int = 0
    """Evaluations since the best one."""
    train_steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    dev_steps: list[int] = field(default_factory=list)
    dev_losses: list[float] = field(default_factory=list)

    @property
    def curve(self) -> Curve:
        return Curve(
            train_steps=tuple(self.train_steps),
            train_losses=tuple(self.train_losses),
            dev_steps=tuple(self.dev_steps),
            dev_losses=tuple(self.dev_losses),
            best_step=self.best_step,
        )

    def diverge(self, reason: str) -> None:
        self.course, self.reason = Course.DIVERGED, reason

    def record(self, step: int, loss: float, scaled_loss: float, patience: int) -> bool:
        """Note an evaluation; True where it is the best so far."""
        self.dev_steps.append(step)
        self.dev_losses.append(loss)
        if scaled_loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = scaled_loss, step, 0
            return True
        self.worse += 1
        if self.worse >= patience:
            self.course = Course.STOPPED
            self.reason = f"no better on dev for {patience} evaluations; best at step {self.best_step}"
        return False


def dev_losses(logits_EL: Tensor, target_E: Tensor) -> tuple[float, float]:
    """Mean negative log-probability of the targets: as it is, and at the best temperature of the grid.

    Confidence that grows too fast raises the first while the order of the labels still improves; the second does not
    mind, so it is the one to stop by (Guo et al. 2017).
    """
    logits_EL = logits_EL.double()
    if target_E.ndim == 2:  # 0 or 1 for each of several labels
        of_labels = [float(label_losses(logits_EL / t, target_E).mean()) for t in (1.0, *TEMPERATURES)]
        return of_labels[0], min(of_labels[1:])
    plain = torch.nn.functional.cross_entropy(logits_EL, target_E)
    scaled = min(float(torch.nn.functional.cross_entropy(logits_EL / t, target_E)) for t in TEMPERATURES)
    return float(plain), scaled


def evaluation_steps(horizon: int, points: int) -> tuple[int, ...]:
    """At most `points` steps, evenly spread, the last one the horizon."""
    return tuple(sorted({max(1, round(horizon * k / points)) for k in range(1, points + 1)}))
