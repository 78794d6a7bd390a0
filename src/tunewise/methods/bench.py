"""What the loops of a bracket share: rows that were read once, what is learnt, and what answers in the end."""

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.adapters.stack import Form
from tunewise.errors import ConfigError
from tunewise.methods.base import Context
from tunewise.methods.linear_probe import fit_head
from tunewise.methods.trained_config import TrainedConfig
from tunewise.models.encoder import Encoder
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.predictors.several import from_logits
from tunewise.prompts.prompt import Prompt
from tunewise.training.label_loss import label_losses
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan
from tunewise.training.objective import Objective
from tunewise.training.population import HeadStart, Population, split_head
from tunewise.training.precision import cast_base
from tunewise.training.rows import Rows, balanced_weights
from tunewise.types import Example, Prediction

Finished = Callable[[Mapping[str, Tensor]], tuple[Mapping[str, Tensor], Form]]
"""Of trained tensors, those that answer, and the adapter they are."""


def probe_c(labels: int) -> float:
    """Inverse penalty of the probe that a head starts at.

    With few labels a free probe is so sure of the training rows that hardly any gradient reaches the base; with many
    labels a tied one is not sure of anything. Measured on dev: SST-2 (2 labels) 1 over 10, BANKING77 (77) 10 over 1.
    """
    return min(10.0, max(1.0, labels / 4))


@dataclass(frozen=True)
class Answering:
    """A member whose answers are asked for."""

    remembered: Callable[[], Tensor]
    """What its loop knows of the rows [E, K]."""
    predictor: Callable[[], Predictor]


class Bench(ABC):
    """What the loops of a bracket share: rows that were read once, what is learnt, and what answers in the end."""

    train: Any
    race: Any
    watched: Any
    """Of the race rows, those that are read while members train."""
    work: int = 0
    """What was spent, in tokens, before there was anything to train."""

    def __init__(self, context: Context, *, reserved: int = 0) -> None:
        """`reserved`: positions of the base's limit that a soft prompt takes."""
        self.context = context
        self.base = copy.copy(context.base)
        self.base.info = dataclasses.replace(self.base.info, max_tokens=self.base.info.max_tokens - reserved)

    def loop(self, population: Population, configs: Sequence[TrainedConfig]) -> Loop:
        """A loop over configs that share their structure."""
        settings = [config.settings for config in configs]
        return Loop(population, self.objective(configs[0]), self.plan(configs[0]), settings)

    def plan(self, config: TrainedConfig) -> Plan:
        plan = config.plan(self.context.seed)
        if self.context.fold.race:
            return plan
        return dataclasses.replace(plan, evaluations=0)  # a refit on all rows: how far it goes is known

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the rows, in sentences."""
        return ()

    @abstractmethod
    def objective(self, config: TrainedConfig) -> Objective:
        """What members learn, and by what they are watched."""

    @abstractmethod
    def working(self, dtype: torch.dtype) -> Encoder:
        """The frozen base in the numbers that training works in."""

    @abstractmethod
    def head(self, config: TrainedConfig) -> HeadStart | None:
        """Where the members' heads start; None where they have none."""

    @abstractmethod
    def unit_length(self, config: TrainedConfig) -> bool:
        """Whether the head reads vectors of length 1."""

    @abstractmethod
    def predictor(
        self, config: TrainedConfig, tensors: Mapping[str, Tensor], finished: Finished | None = None
    ) -> Predictor:
        """What answers with trained tensors.

        `finished`: the tensors that answer, and the adapter they are; None where they are weights of the base.
        """

    @abstractmethod
    def losses(self, answers_EK: Tensor, rows: Sequence[int]) -> np.ndarray:
        """Of these race rows [E], by what was remembered of them."""

    @abstractmethod
    def predictions(self, members: Sequence[Answering], rows: Sequence[int]) -> list[list[Prediction]]:
        """Of members of one structure on these race rows: by what is remembered of them, or as predictors answer."""

    def state(self) -> dict[str, Any]:
        """What was found out by clock, and is not to be found out again where a run is resumed."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        assert not state, "nothing was found out"


class LabelBench(Bench):
    """Rows as tokens with their labels, and heads on what the base makes of them."""

    train: Rows
    race: Rows
    watched: Rows

    def __init__(self, context: Context, *, reserved: int = 0) -> None:
        super().__init__(context, reserved=reserved)
        fold = context.fold
        self.train = self._rows(fold.train, "train")
        self.race = self._rows(fold.race, "dev")
        self.watched = self.race.subset(context.watched(fold.race))
        self._probe: HeadStart | None = None

    def _rows(self, examples: Sequence[Example], name: str) -> Rows:
        tokens = self.base.encode([example.texts for example in examples], self.context.task.truncation, name=name)
        return Rows(tokens, self.context.targets(examples))

    def objective(self, config: TrainedConfig) -> Labels:
        if config.prompt is not None:
            raise ConfigError(f"{config.rung}: `prompt` is for texts to be written, and here are labels. Leave it out.")
        labels, weights = len(self.context.labels), None
        if config.class_weights == "balanced":
            if self.context.several:
                raise ConfigError(
                    f"{config.rung}: `class_weights: balanced` weighs rows by their one label, and here a text may "
                    "have several. Use 'none'; thresholds make up for rare labels."
                )
            weights = balanced_weights(self.train.target_E, labels)
        return Labels(self.train, self.watched, labels, class_weight_L=weights)

    def working(self, dtype: torch.dtype) -> Encoder:
        return cast_base(self.context.base, dtype)

    def head(self, config: TrainedConfig) -> HeadStart:
        """The probe is fitted once, on the context's features."""
        labels = len(self.context.labels)
        if config.head_init == "zeros":
            return HeadStart(labels=labels)
        if self._probe is None:
            feature_EH = self.context.features(self.context.fold.train)
            # each of several labels is a question of its own, with two answers
            c = probe_c(2 if self.context.several else labels)
            weight_LH, bias_L, _ = fit_head(feature_EH, self.train.target_E, labels, c)
            self._probe = HeadStart(labels=labels, weight_LH=weight_LH, bias_L=bias_L)
        return self._probe

    def unit_length(self, config: TrainedConfig) -> bool:
        """A probe's head does where the base's features are such."""
        return config.head_init == "probe" and self.context.base.info.normalize

    @property
    def prompt(self) -> Prompt | None:
        """What is said to the base about a row; None where it reads the row's text alone."""
        return None

    def predictor(
        self, config: TrainedConfig, tensors: Mapping[str, Tensor], finished: Finished | None = None
    ) -> Predictor:
        length = self.unit_length(config)
        return adapted_predictor(self.context, tensors, unit_length=length, finished=finished, prompt=self.prompt)

    def losses(self, answers_EK: Tensor, rows: Sequence[int]) -> np.ndarray:
        """Negative log-probability of each row's target; of several labels mean over them."""
        target = torch.as_tensor(self.race.target_E[list(rows)])
        if self.context.several:
            loss_E: np.ndarray = label_losses(answers_EK, target).numpy()
        else:
            loss_E = -torch.log_softmax(answers_EK, dim=-1).gather(-1, target[:, None])[:, 0].numpy()
        return loss_E

    def predictions(self, members: Sequence[Answering], rows: Sequence[int]) -> list[list[Prediction]]:
        labels, thresholds = self.context.labels, self.context.thresholds
        return [from_logits(member.remembered().numpy(), labels, thresholds) for member in members]


def adapted_predictor(
    context: Context,
    tensors: Mapping[str, Tensor],
    *,
    unit_length: bool,
    finished: Finished | None = None,
    prompt: Prompt | None = None,
) -> AdaptedPredictor:
    """What answers with trained tensors, the head's among them.

    `finished`: the tensors that answer, and the adapter they are; None where they are weights of the base.
    """
    own: Mapping[str, Tensor]
    own, weight_LH, bias_L = split_head(tensors)
    adapter: Form | None = None
    if finished is not None:
        own, adapter = finished(own)
    return AdaptedPredictor(
        base=context.base,
        labels=context.labels,
        policy=context.task.truncation,
        weight_LH=weight_LH.float().cpu().numpy(),
        bias_L=bias_L.float().cpu().numpy(),
        tensors=own,
        adapter=adapter,
        unit_length=unit_length,
        prompt=prompt,
    )


def nothing_to_learn(rung: str, context: Context) -> str | None:
    """Why no weights can be trained on these rows, or None."""
    if context.several:
        wanted_EL = context.wanted(context.fold.train)
        if (wanted_EL.any(axis=0) & ~wanted_EL.all(axis=0)).any():
            return None
        return f"{rung}: all training rows have the same labels; there is nothing to tell apart."
    found = sorted({str(example.target) for example in context.fold.train})
    if len(found) >= 2:
        return None
    return f"{rung}: the training rows hold {len(found)} label ({', '.join(found)}); there is nothing to tell apart."
