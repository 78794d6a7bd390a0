"""Train low-rank updates of the frozen base, many candidates at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tunewise.adapters.lora import LoraForm, LoraMember, Targets, target_layers
from tunewise.adapters.peft_format import PeftLora
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.head_start import HeadInit, head_start
from tunewise.methods.training_cost import trained_cost
from tunewise.methods.trained import TrainedBracket, balanced_weights, choose_population, rows_of, subset, watched
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.training.adapted import LoraPopulation
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import WORK_ADAPTER, split_head
from tunewise.training.precision import cast_base, working_dtype
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """How a low-rank update is shaped and trained."""

    learning_rate: float = 1e-3
    """About ten times what `full` likes, nearly whatever the rank (Schulman et al. 2025, "LoRA Without Regret")."""
    dropout: float = 0.0
    """Share of a layer's inputs that the update does not see in a step."""
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    label_smoothing: float = 0.0
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    rank: int = 8
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""
    targets: Targets = "all"
    epochs: float = 3.0
    batch_size: int = 32
    class_weights: Literal["none", "balanced"] = "none"
    head_init: HeadInit = "probe"

    def __post_init__(self) -> None:
        _in_range("lora", self)
        if self.rank < 1:
            raise ConfigError(f"lora: `rank` must be 1 or more, got {self.rank}. For no update use 'linear_probe'.")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"lora: `alpha` must be a finite number above 0, got {self.alpha}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"lora: `dropout` must lie between 0 and 1 (1 not included), got {self.dropout}.")

    @property
    def structure(self) -> tuple[Any, ...]:
        """What members of one stack have in common."""
        return (self.rank, self.targets, self.epochs, self.batch_size, self.class_weights, self.head_init)

    @property
    def peft(self) -> PeftLora:
        return PeftLora(rank=self.rank, alpha=self.alpha, rslora=self.rslora, dropout=self.dropout)
