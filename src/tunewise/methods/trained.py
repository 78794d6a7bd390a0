"""A bracket of trained candidates: loops of one or several members, grown, scored and shrunk together."""

import copy
import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.adapters.stack import Form, NotStackable
from tunewise.errors import ConfigError, NotEnoughMemory, RunError
from tunewise.methods.asking import PromptConfig
from tunewise.methods.base import Context
from tunewise.methods.linear_probe import fit_head
from tunewise.models.encoder import Encoder
from tunewise.models.seq2seq import EncoderDecoder
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.predictors.several import from_logits
from tunewise.prompts.prompt import Prompt
from tunewise.training.estimate import estimate
from tunewise.training.label_loss import label_losses
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan
from tunewise.training.objective import Objective, Settings
from tunewise.training.optimizer import OptimizerName, ScheduleName
from tunewise.training.population import HeadStart, Population, split_head
from tunewise.training.precision import cast_base, working_dtype
from tunewise.training.rows import Rows, balanced_weights
from tunewise.types import Cost, Curve, Example, Prediction

DECODER_LAYER = 1.4
"""What a layer that also looks at an encoder keeps for the backward pass, of what one that does not keeps."""

Build = Callable[[Sequence[int]], Loop]
"""A loop of the configs with these indices, which have one structure."""
Finish = Callable[[int, Mapping[str, Tensor]], Predictor]
"""What answers as the member with this config's index and these tensors."""
Finished = Callable[[Mapping[str, Tensor]], tuple[Mapping[str, Tensor], Form]]


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


def probe_c(labels: int) -> float:
    """Inverse penalty of the probe that a head starts at.

    With few labels a free probe is so sure of the training rows that hardly any gradient reaches the base; with many
    labels a tied one is not sure of anything. Measured on dev: SST-2 (2 labels) 1 over 10, BANKING77 (77) 10 over 1.
    """
    return min(10.0, max(1.0, labels / 4))


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
    def predictions(
        self, answers: Callable[[], Tensor], predictor: Callable[[], Predictor], rows: Sequence[int]
    ) -> list[Prediction]:
        """Of a member on these race rows: by what is remembered of them, or as its predictor answers."""


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

    def predictions(
        self, answers: Callable[[], Tensor], predictor: Callable[[], Predictor], rows: Sequence[int]
    ) -> list[Prediction]:
        return from_logits(answers().numpy(), self.context.labels, self.context.thresholds)


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


def trained_cost(
    context: Context,
    config: TrainedConfig,
    *,
    work_per_token: int,
    adapted_numbers: int,
    copied_numbers: int,
    kept_layers: float | None = None,
) -> Cost:
    """Cost of one candidate; `adapted_numbers` are trained besides the head, `copied_numbers` held once more.

    `kept_layers`: how many layers keep what the backward pass needs (None: all).
    """
    info = context.base.info
    head = len(context.labels) * (info.hidden_size + 1)
    expected = estimate(
        info,
        config.plan(context.seed),
        train_tokens=context.train_tokens,
        race_tokens=context.watched_tokens,
        work_per_token=work_per_token,
        layers=_layers(context.base.model) if kept_layers is None else kept_layers,
        kept_numbers=adapted_numbers + head,
        copied_numbers=copied_numbers,
        bytes_per_number=working_dtype(context.task.dtype, context.base).itemsize,
    )
    work = expected.work + context.closing_tokens
    return Cost(
        work=work,
        seconds=work * context.seconds_per_work,
        memory_bytes=expected.memory_bytes,
        trainable_parameters=adapted_numbers + head,
        fits=_fits(config.rung, expected.memory_bytes),
    )


def numbers_of(base: Encoder) -> int:
    """Weights of the base that are trained or adapted: of an encoder-decoder whose encoder alone reads, that one's."""
    if base.info.family != "seq2seq":
        return base.info.parameters
    return sum(weight.numel() for weight in base.model.parameters())


def _layers(model: nn.Module) -> float:
    """Layers that keep what the backward pass needs of a token; in an encoder-decoder it passes one of the two."""
    pair = next((module for module in model.modules() if isinstance(module, EncoderDecoder)), None)
    if pair is None:
        return float(getattr(model.config, "num_hidden_layers", 12))
    encoder, decoder = (
        max(len(part) for part in stack.children() if isinstance(part, nn.ModuleList))
        for stack in (pair.encoder, pair.decoder)
    )
    return max(float(encoder), DECODER_LAYER * decoder)


def _fits(rung: str, memory_bytes: int) -> str | None:
    import psutil

    free = int(psutil.virtual_memory().available)
    if memory_bytes <= free:
        return None
    return f"{rung}: needs about {memory_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free."


def choose_population(build: Build, indices: Sequence[int]) -> tuple[list[list[int]], str]:
    """Groups of members to stack, and the sentence that says why: stacked only where a step of it is no slower.

    Measured on the first batch. Where so many do not fit in memory together, each half is looked at by itself. The
    results do not depend on the grouping beyond rounding.
    """
    everyone = list(indices)
    alone = [[i] for i in everyone]
    if len(everyone) == 1:
        return alone, "one candidate: nothing to stack"
    try:
        together = build(everyone).step_seconds()
    except NotStackable as error:
        return alone, f"trained one by one: {error}"
    except NotEnoughMemory:
        half = len(everyone) // 2
        first, why = choose_population(build, everyone[:half])
        second, _ = choose_population(build, everyone[half:])
        return [*first, *second], f"{len(everyone)} candidates do not fit in memory together, so half of them: {why}"
    single = build(everyone[:1]).step_seconds() * len(everyone)
    times = f"a step of {len(everyone)} takes {together * 1e3:.0f} ms stacked, {single * 1e3:.0f} ms one by one"
    return ([everyone], f"stacked: {times}") if together <= single else (alone, f"trained one by one: {times}")


class TrainedBracket:
    """Members in the order of the race, each in one of several loops; fidelity is steps of the longest horizon."""

    def __init__(
        self,
        *,
        bench: Bench,
        build: Build,
        finish: Finish,
        groups: Sequence[Sequence[int]],
        notes: Sequence[str] = (),
        benches: Mapping[int, Bench] | None = None,
    ) -> None:
        """`benches`: by config index, where candidates do not all read the same tokens."""
        self._first_bench, self._bench_of = bench, benches or {}
        self.notes = (*bench.notes, *notes)
        self.thresholds = bench.context.thresholds
        self._build, self._finish = build, finish
        self._all_rows = tuple(range(len(bench.context.fold.race)))
        self._watched = tuple(bench.context.watched(bench.context.fold.race))
        self._open([list(group) for group in groups])
        self.members = sorted(i for group in self.groups for i in group)
        # of all candidates, also those that leave: the unit of fidelity must not change under way
        self._horizon = max(loop.horizon for loop in self.loops)
        self._fidelity = 0
        self._owed = sum(each.work for each in {id(own): own for own in (bench, *self._bench_of.values())}.values())

    def _open(self, groups: list[list[int]]) -> None:
        self.groups = groups
        self.loops = [self._build(group) for group in groups]
        self._scored: dict[int, tuple[tuple[int, tuple[int, ...]], Tensor]] = {}
        self._made: dict[int, tuple[int, Predictor]] = {}
        """By config index, the step of its loop and what answers as the member does there."""

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def fidelity(self) -> int:
        return self._fidelity

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        fidelity = min(fidelity, self.horizon)
        wanted = None if members is None else {self.members[member] for member in members}
        work, self._owed = self._owed, 0
        for group, loop in zip(self.groups, self.loops, strict=True):
            if wanted is None or not wanted.isdisjoint(group):
                work += loop.advance(round(fidelity * loop.horizon / self.horizon))
        if members is None:
            self._fidelity = max(self._fidelity, fidelity)
        return work

    @property
    def layout(self) -> list[list[int]]:
        """Indices of the configs that are trained in one stack."""
        return [list(group) for group in self.groups]

    def failure(self, member: int) -> str | None:
        """Why this member has no result, or None."""
        loop, place = self._place(member)
        record = loop.members[place]
        return record.reason if record.course == "diverged" else None

    def losses(self, rows: tuple[int, ...] | None = None) -> np.ndarray:
        """As in `Bracket`, of each member at its best step so far; NaN in the row of a member that diverged."""
        asked = self._asked(rows)
        found = [self._bench(member).losses(self._answers(member, asked), asked) for member in range(self.size)]
        loss_PE = np.stack(found)
        for member in range(self.size):
            if self.failure(member) is not None:
                loss_PE[member] = np.nan
        return loss_PE

    def reading_work(self, member: int, tokens: int) -> int:
        return self._place(member)[0].reading_work(tokens)

    def remembers(self, member: int) -> bool:
        return self._place(member)[0].remembers

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        """As in `Bracket`, of each member at its best step so far; none for a member that diverged."""
        asked = self._asked(rows)
        return [
            []
            if self.failure(member) is not None
            else self._bench(member).predictions(
                functools.partial(self._answers, member, asked), functools.partial(self.predictor, member), asked
            )
            for member in range(self.size)
        ]

    def _asked(self, rows: tuple[int, ...] | None) -> tuple[int, ...]:
        return self._all_rows if rows is None else rows

    def _bench(self, member: int) -> Bench:
        return self._bench_of.get(self.members[member], self._first_bench)

    def _answers(self, member: int, rows: tuple[int, ...]) -> Tensor:
        """What is remembered of these race rows [E, K], or read anew where they are not among the watched ones."""
        number, place = self._where(member)
        loop = self.loops[number]
        known = self._scored.get(number)
        if known is None or known[0] != (loop.step, rows):
            if loop.remembers and set(rows) <= set(self._watched):
                answers_PEK = loop.best_answers()[:, [self._watched.index(row) for row in rows]]
            else:
                race = self._bench(member).race
                answers_PEK = loop.best_answers(race if rows == self._all_rows else race.subset(rows))
            known = self._scored[number] = ((loop.step, rows), answers_PEK)
        return known[1][place]

    def _where(self, member: int) -> tuple[int, int]:
        """Number of the loop that holds a member, and its place there."""
        config = self.members[member]
        return next((n, group.index(config)) for n, group in enumerate(self.groups) if config in group)

    def _place(self, member: int) -> tuple[Loop, int]:
        number, place = self._where(member)
        return self.loops[number], place

    def keep(self, indices: Sequence[int]) -> None:
        self.members = [self.members[i] for i in indices]
        groups: list[list[int]] = []
        loops, scored = [], {}
        for number, (group, loop) in enumerate(zip(self.groups, self.loops, strict=True)):
            stay = [place for place, config in enumerate(group) if config in self.members]
            if len(stay) < len(group) and stay:
                loop.keep(stay)
            if stay:
                if len(stay) == len(group) and number in self._scored:
                    scored[len(groups)] = self._scored[number]
                groups.append([group[place] for place in stay])
                loops.append(loop)
        self.groups, self.loops, self._scored = groups, loops, scored

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors: dict[str, Any] = {}
        metas = []
        for number, loop in enumerate(self.loops):
            own, meta = loop.state()
            tensors.update({f"{number}/{name}": tensor for name, tensor in own.items()})
            metas.append(meta)
        return tensors, {
            "members": list(self.members),
            "groups": self.groups,
            "fidelity": self._fidelity,
            "horizon": self._horizon,
            "owed": self._owed,
            "loops": metas,
        }

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self._open([[int(i) for i in group] for group in meta["groups"]])
        self.members = [int(i) for i in meta["members"]]
        self._fidelity, self._horizon = int(meta["fidelity"]), int(meta["horizon"])
        self._owed = int(meta["owed"])
        for number, (loop, own) in enumerate(zip(self.loops, meta["loops"], strict=True)):
            prefix = f"{number}/"
            loop.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, own)

    def curve(self, member: int) -> Curve:
        loop, place = self._place(member)
        return loop.curve(place)

    def trainable_parameters(self, member: int) -> int:
        return self._place(member)[0].population.trainable_parameters

    def predictor(self, member: int) -> Predictor:
        """The member at its best step.

        Raises:
            RunError: the member diverged.
        """
        loop, place = self._place(member)
        step, known = self._made.get(self.members[member], (None, None))
        if known is not None and step == loop.step:
            return known
        tensors = {} if self.failure(member) is not None else loop.export(place)
        reason = self.failure(member)  # what is exported may be fitted only then, and fail
        if reason is not None:
            raise RunError(f"this candidate has no predictor: {reason}. Use a lower learning rate.")
        predictor = self._finish(self.members[member], tensors)
        predictor.thresholds = self.thresholds
        self._made[self.members[member]] = (loop.step, predictor)
        return predictor

    def close(self) -> None:
        self.loops, self.groups, self.members, self._scored, self._made = [], [], [], {}, {}
