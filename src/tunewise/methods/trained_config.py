"""What every trained rung has to decide, and how often it reads its rows."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from tunewise.errors import ConfigError
from tunewise.methods.asking import PromptConfig
from tunewise.methods.base import Context
from tunewise.training.loop import Plan
from tunewise.training.objective import Settings
from tunewise.training.optimizer import OptimizerName, ScheduleName


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """What every trained rung has to decide."""

    rung: ClassVar[str]

    learning_rate: float
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    label_smoothing: float = 0.0
    epochs: float = 3.0
    batch_size: int = 32
    optimizer: OptimizerName = "adamw"
    schedule: ScheduleName = "linear"
    consistency: float = 0.0
    """Weight of the divergence between two passes with different dropout (R-Drop); doubles the work."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced": every label weighs the same in the loss."""
    head_init: Literal["zeros", "probe"] = "probe"
    """Where the head starts: at zero, or at the linear probe of the frozen base (Kumar et al. 2022, "LP-FT")."""
    prompt: PromptConfig | None = None
    """Where texts are written: how a row is put to the base, in training and later (None: as `zero_shot` does)."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{self.rung}: `{name}` must be a finite number above 0, got {getattr(self, name)}.")
        if self.learning_rate > 1.0:
            raise ConfigError(f"{self.rung}: `learning_rate` must be at most 1, got {self.learning_rate}.")
        for name in ("weight_decay", "warmup_share", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{self.rung}: `{name}` must lie between 0 and 1 (1 not included), got {getattr(self, name)}."
                )
        if not 0 <= self.consistency < float("inf"):
            raise ConfigError(f"{self.rung}: `consistency` must be 0 or more, got {self.consistency}.")
        if self.batch_size < 1:
            raise ConfigError(f"{self.rung}: `batch_size` must be 1 or more, got {self.batch_size}.")

    @property
    def settings(self) -> Settings:
        return Settings(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_share=self.warmup_share,
            label_smoothing=self.label_smoothing,
        )

    def plan(self, seed: int) -> Plan:
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            optimizer=self.optimizer,
            schedule=self.schedule,
            consistency=self.consistency,
        )


AnyConfig = TypeVar("AnyConfig", bound=TrainedConfig)


def with_epochs(
    plain: AnyConfig, context: Context, *, work_per_token: int, steps: int, least: float, most: float, share: float
) -> AnyConfig:
    """The config with as many passes over train as come to about `steps` optimiser steps: few rows are read oftener.

    At most as many as `share` of the search's work pays for, with evaluations, on all folds and once more on all rows
    where there are folds, so that there is something left to search with; but one pass always.
    """
    per_epoch = max(1, -(-len(context.fold.train) // plain.batch_size))
    wanted = min(most, max(least, round(steps / per_epoch)))
    k = len(context.folds)
    fits = 1 if k == 1 else k + k / (k - 1)
    evaluations = plain.plan(0).evaluations * context.watched_tokens + context.closing_tokens
    affordable = (share * context.work / fits - evaluations) / max(1, context.train_tokens * work_per_token)
    return dataclasses.replace(plain, epochs=float(max(1.0, min(wanted, math.floor(4 * affordable) / 4))))
