"""What trained rungs do where texts are to be written: learn the answers after the prompts that they will be asked.

Prompts, their fit to the base's window and what is foreseen are those of the predictor that answers in the end, so that
what is learnt, measured and served is the same.

Axes: E race rows, K numbers remembered of a row.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.adapters.stack import Form
from tunewise.config import Task, from_plain
from tunewise.errors import ConfigError, DataError, ModelError, PromptError
from tunewise.methods.asking import SAMPLED, PromptConfig, decoding_of, prompt_of
from tunewise.methods.base import Context
from tunewise.methods.bench import Answering, Bench, Finished, LabelBench, nothing_to_learn
from tunewise.methods.trained_config import TrainedConfig
from tunewise.methods.writing_at_once import WritingAtOnce
from tunewise.models.encoder import Encoder
from tunewise.models.prefix_tree import Request
from tunewise.models.writing_base import WritingBase
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.predictors.written import WrittenPredictor
from tunewise.training.precision import cast_writer
from tunewise.training.texts import Texts, Writing
from tunewise.types import Example, Prediction

OF_NO_USE = {"consistency": 0.0, "class_weights": "none", "head_init": "probe"}
"""Settings that are about labels, and the value each keeps where texts are written."""


def bench_for(context: Context, config: TrainedConfig, *, reserved: int = 0) -> Bench:
    """What the loops of candidates that read the same share; `reserved`: positions that a soft prompt takes."""
    if context.task.kind == "generate":
        return WritingBench(context, config, reserved=reserved)
    return LabelBench(context, reserved=reserved)


def cannot_learn(rung: str, context: Context) -> str | None:
    """Why nothing can be trained on these rows with this base, or None."""
    if context.task.kind != "generate":
        return nothing_to_learn(rung, context)
    base = context.base
    if not isinstance(base, WritingBase):
        return f"{rung}: {base.info.name} writes nothing; texts are written by causal and seq2seq bases"
    if not base.end_ids:
        return f"{rung}: {base.info.name} has no token that ends a text, so it cannot learn where an answer ends"
    try:
        few = _asked(context, prompt_for(rung, context.task)).requests(_sample(context.fold.train))
    except (PromptError, ModelError) as error:
        return str(error)
    if not any(_can_be_learnt(base, request) for request in few):
        return f"{rung}: of {len(few)} training rows from all over the file none has an answer that fits the base"
    return None


def _sample(train: Sequence[Example]) -> Sequence[Example]:
    """A few rows at even distances: a file may be sorted by length."""
    return train[:: max(1, len(train) // SAMPLED)][:SAMPLED]


def prompt_for(rung: str, task: Task) -> PromptConfig:
    """How the task wants rows put to the base where this rung learns to write."""
    own = task.settings.get(rung, {}).get("prompt")
    return from_plain(PromptConfig, own, where=f"settings.{rung}.prompt") if own else PromptConfig()


def as_read(context: Context, said: PromptConfig | None = None) -> Context:
    """The context with as many tokens as there are where rows are prompts with their answers, by a sample.

    `said`: how rows are put to the base; None: as the task says.
    """
    base, fold = context.base, context.fold
    if context.task.kind != "generate" or not isinstance(base, WritingBase) or not fold.train:
        return context
    few = _sample(fold.train)
    try:
        asked = _asked(context, said or PromptConfig())
        read = sum(len(request.read) for request in asked.requests(few) if request is not None) / len(few)
        answered = asked.tokens(few) / len(few)
    except (PromptError, ModelError):
        return context  # the rungs say why
    return dataclasses.replace(
        context,
        train_tokens=round(read * len(fold.train)),
        race_tokens=round(read * len(fold.race)),
        answering_tokens=round(answered * len(fold.race)),
    )


class WritingBench(Bench):
    """Rows as prompts with their answers."""

    train: Texts
    race: Texts
    watched: Texts

    def __init__(self, context: Context, config: TrainedConfig, *, reserved: int = 0) -> None:
        """As for every bench.

        Raises:
            ConfigError: the config has a setting that is about labels.
            DataError: no training row has an answer that can be learnt, or no dev row one that fits.
        """
        super().__init__(context, reserved=reserved)
        for name, only in OF_NO_USE.items():
            if getattr(config, name) != only:
                raise ConfigError(
                    f"{config.rung}: `{name}` is about labels, and here texts are written; got "
                    f"{getattr(config, name)!r}. Leave it at {only!r}."
                )
        self.rung, self.said = config.rung, config.prompt or PromptConfig()
        self.at_once = WritingAtOnce(self.rung)
        assert isinstance(self.base, WritingBase)
        asked = _asked(context, self.said, self.base)
        found = asked.requests(context.fold.train)
        self._given = asked.given.said(len(found))
        self._broken = asked.prompt.control_tokens_in(context.fold.train)
        usable = [request for request in found if _can_be_learnt(self.base, request)]
        self._left_out = len(found) - len(usable)
        if not usable:
            raise DataError(
                f"{self.rung}: none of the {len(found):,} training rows has an answer that can be learnt: each is "
                f"longer than the room after its prompt ({self.base.info.max_tokens:,} tokens in all), or has no "
                "tokens of its own. Use a base with a longer limit, or shorter answers."
            )
        self.train = Texts(self.base, tuple(usable))
        self.race = Texts(self.base, tuple(asked.requests(context.fold.race) if context.fold.race else ()))
        self.watched = self.race.subset(context.watched(context.fold.race))
        if context.fold.race and not self.watched.wanted_E.any():
            raise DataError(
                f"{self.rung}: none of the {len(self.watched.requests):,} dev rows that are watched has an answer that "
                f"fits the room after its prompt ({self.base.info.max_tokens:,} tokens in all), so nothing says when "
                "to stop. Use a base with a longer limit, or shorter answers."
            )

    @property
    def notes(self) -> tuple[str, ...]:
        said = [] if self._given is None else [f"{self.rung}: {self._given}"]
        if self._broken:
            said.append(f"{self.rung}: {self._broken:,} control tokens in training rows were broken up by a space.")
        if self._left_out:
            said.append(
                f"{self.rung}: {self._left_out:,} training rows are not learnt from: their answers are longer than the "
                "room after their prompts, or have no tokens of their own."
            )
        return (*said, *self.at_once.notes)

    def objective(self, config: TrainedConfig) -> Writing:
        return Writing(self.train, self.watched)

    def working(self, dtype: torch.dtype) -> Encoder:
        return cast_writer(self.context.base, dtype)

    def head(self, config: TrainedConfig) -> None:
        return None

    def unit_length(self, config: TrainedConfig) -> bool:
        return False

    def predictor(
        self, config: TrainedConfig, tensors: Mapping[str, Tensor], finished: Finished | None = None
    ) -> AdaptedWriter:
        adapter: Form | None = None
        if finished is not None:
            tensors, adapter = finished(tensors)
        return AdaptedWriter(
            base=self.context.base,
            policy=self.context.task.truncation,
            prompt=prompt_of(self.context, self.said),
            decoding=decoding_of(self.context),
            tensors=tensors,
            adapter=adapter,
        )

    def losses(self, answers_EK: Tensor, rows: Sequence[int]) -> np.ndarray:
        """Negative log-probability of each row's answer by token; NaN where it does not fit the base."""
        wanted_E = np.maximum(1, self.race.wanted_E[list(rows)])
        loss_E: np.ndarray = answers_EK[:, 0].numpy() / wanted_E
        return loss_E

    def predictions(self, members: Sequence[Answering], rows: Sequence[int]) -> list[list[Prediction]]:
        race, writers = self.context.fold.race, []
        for member in members:
            writer = member.predictor()
            assert isinstance(writer, AdaptedWriter)
            writers.append(writer)
        return self.at_once.predictions(writers, [race[row] for row in rows])

    def state(self) -> dict[str, Any]:
        return self.at_once.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.at_once.restore(state)


def _asked(context: Context, config: PromptConfig, base: WritingBase | None = None) -> WrittenPredictor:
    """What asks the frozen base by the prompts that are learnt."""
    return WrittenPredictor(
        base=context.base if base is None else base,
        policy=context.task.truncation,
        prompt=prompt_of(context, config),
        decoding=decoding_of(context),
    )


def _can_be_learnt(base: WritingBase, request: Request | None) -> bool:
    """Whether an answer fits and says something, beside control tokens and spaces."""
    return request is not None and bool(base.tokenizer.decode(request.continuation, skip_special_tokens=True).strip())
