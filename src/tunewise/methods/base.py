"""What every rung of the ladder is: a Method proposes candidates and opens Brackets; a Bracket ends in a Predictor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tunewise.config import Task, from_plain
from tunewise.errors import ConfigError
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder
from tunewise.models.writing_base import WritingBase
from tunewise.predictors.base import Predictor
from tunewise.predictors.several import Thresholds, halves
from tunewise.training.rows import watched, watched_count
from tunewise.types import Cost, Curve, Example, Family, Kind, Prediction, to_plain


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Rows to fit on, and the rows of dev that a race may look at while it runs."""

    train: tuple[Example, ...]
    race: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Context:
    """All a method may see of a run. Neither the choose part of dev nor held_out is in it."""

    task: Task
    labels: tuple[str, ...]
    base: Encoder
    folds: tuple[Fold, ...]
    features: Features
    """Vectors [examples, hidden] of the frozen base, float32; computed once per base, then looked up."""
    work: int
    """What the search of this run may spend in all, in tokens of this method (backward counted twice)."""
    seed: int
    """Of this bracket: derived from the run's seed, the base, the method and the bracket's index."""
    train_tokens: int = 0
    """Unpadded tokens of `fold.train` under the task's truncation policy."""
    race_tokens: int = 0
    answering_tokens: int = 0
    """Of a fold's race rows, where answers are written: what writing and reading them takes, in tokens."""
    seconds_per_work: float = 0.0
    """Of this method on this machine, measured at start; 0 where it was not measured."""
    several: bool = False
    """Whether a text may have several labels, or none."""
    watch: int | None = None
    """Rows that are watched at most; None: as the size of train asks."""
    layout: Any = None
    """`Bracket.layout` of an earlier sitting: how its members were grouped is measured once and kept."""

    def __post_init__(self) -> None:
        if self.task.kind == "generate" and isinstance(self.base, WritingBase):
            object.__setattr__(self, "base", self.base.for_texts())

    @property
    def fold(self) -> Fold:
        """The rows to fit on and to race on; of several folds the first."""
        return self.folds[0]

    @property
    def race(self) -> tuple[Example, ...]:
        """The race rows of all folds, in their order."""
        return tuple(example for fold in self.folds for example in fold.race)

    @property
    def watched_rows(self) -> int:
        """How many race rows of a fold are read, at most, while members train."""
        if self.watch is not None:
            return self.watch
        return watched_count(min(len(fold.train) for fold in self.folds))

    def watched(self, examples: Sequence[Example]) -> list[int]:
        """Which of these race rows are read while members train, at evaluations and looks."""
        return watched([example.digest for example in examples], self.watched_rows)

    @property
    def watched_tokens(self) -> int:
        """Of a fold's race rows, those that are read at an evaluation."""
        return round(self.race_tokens * min(1.0, self.watched_rows / max(1, len(self.fold.race))))

    @property
    def closing_tokens(self) -> int:
        """Of a fold's race rows, answered once a member is finished: 0 where its evaluations have told all answers."""
        if self.task.kind == "generate":
            return self.answering_tokens
        return self.race_tokens if len(self.fold.race) > self.watched_rows else 0

    def target_indices(self, examples: Sequence[Example]) -> np.ndarray:
        """Index of each example's target in `labels`, int64.

        Raises:
            ConfigError: a text may have several labels.
        """
        if self.several:
            raise ConfigError("methods: this rung reads one label per text, and here a text may have several.")
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[str(example.target)] for example in examples], dtype=np.int64)

    def wanted(self, examples: Sequence[Example]) -> np.ndarray:
        """Whether each label is wanted, 0 or 1, [examples, labels] float32."""
        wanted_EL = np.zeros((len(examples), len(self.labels)), dtype=np.float32)
        index = {label: i for i, label in enumerate(self.labels)}
        for row, example in enumerate(examples):
            wanted_EL[row, [index[label] for label in example.labels]] = 1.0
        return wanted_EL

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """`wanted` where a text may have several labels, else `target_indices`."""
        return self.wanted(examples) if self.several else self.target_indices(examples)

    @property
    def thresholds(self) -> Thresholds:
        """What a predictor starts with: one half for each of several labels, else None."""
        return halves(len(self.labels)) if self.several else None


@dataclass(frozen=True)
class Real:
    """A number between two bounds, searched on a log scale where `log`."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]


Parameters = Mapping[str, Real | Choice]


class Space(Protocol):
    """Suggests values for named parameters, knowing what was tried before."""

    def ask(self, parameters: Parameters, n: int) -> list[dict[str, Any]]: ...


@runtime_checkable
class Bracket(Protocol):
    """Candidates of one method that advance, are scored and shrink together.

    Fidelity is counted in whole units (optimiser steps for trained rungs, 1 for rungs that are made at once).
    Results are a function of the context, the configs and the fidelity reached, never of how `advance` was sliced.
    """

    @property
    def size(self) -> int:
        """P, the members still in the race."""

    @property
    def horizon(self) -> int:
        """The fidelity at which a member is finished."""

    @property
    def fidelity(self) -> int:
        """What every member has reached."""

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        """Bring every member, or these, to this fidelity (at most the horizon); returns the work spent by it.

        Members that are trained in one stack go together, so others may come along.
        """

    def losses(self, rows: tuple[int, ...] | None = None) -> np.ndarray:
        """Negative log-probability of the target of each race example, or of these, [P, examples], float64.

        Not temperature-scaled; of texts by token, NaN where it is not known.
        """

    def reading_work(self, member: int, tokens: int) -> int:
        """Of answering anew, as a member stands, on rows of so many tokens in all folds together."""

    def remembers(self, member: int) -> bool:
        """Whether this member's answers on the watched rows are at hand, so that a look costs nothing."""

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        """Of each member, on the race part or these rows of it; none for a member that failed."""

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these, in this order."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors by name, and JSON-ready values, from which `restore` continues bit-exactly."""

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Become the bracket whose `state` this was; the bracket must have been opened with the same configs."""

    @property
    def layout(self) -> Any:
        """How members are grouped, JSON-ready; None where there is nothing to group."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided when it was opened, in sentences."""

    def failure(self, member: int) -> str | None:
        """Why this member has no result although it reached its fidelity (it diverged), or None."""

    def curve(self, member: int) -> Curve: ...

    def trainable_parameters(self, member: int) -> int: ...

    def predictor(self, member: int) -> Predictor:
        """What answers as this member does; still right after the bracket is gone."""

    def close(self) -> None:
        """Give back memory and leave the shared base as it was found."""


def settled(method: "Method", context: Context, config: Any) -> Any:
    """The config with the task's own settings for this rung.

    Raises:
        ConfigError: there is no such setting, or its value cannot be.
    """
    own = context.task.settings.get(method.name)
    return from_plain(method.Config, {**to_plain(config), **own}, where=f"settings.{method.name}") if own else config


def default_of(method: "Method", context: Context) -> Any:
    """The config that is tried first."""
    return settled(method, context, method.default(context))


ASKED_AGAIN = 3
"""Times that twice as many configs are asked for, where too few of them can be tried."""


def proposed(method: "Method", context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
    """Up to n configs to try, each once; not among them the default and what the task's settings make impossible."""
    first, seen = default_of(method, context), 0
    found: list[Any] = []
    for again in range(1 + ASKED_AGAIN):
        configs = method.propose(context, space, rng, n * 2**again)
        found = _possible(method, context, configs, first)
        if len(found) >= n or len(configs) <= seen:
            break
        seen = len(configs)
    return found[:n]


def _possible(method: "Method", context: Context, configs: Sequence[Any], first: Any) -> list[Any]:
    """These configs with the task's settings, each once, without the first and what cannot be."""
    found: list[Any] = []
    for config in configs:
        try:
            own = settled(method, context, config)
        except ConfigError:
            continue
        if own != first and own not in found:
            found.append(own)
    return found


class Method(Protocol):
    """One way of adapting a base. Stateless: what varies is in the config and the context."""

    name: str
    families: frozenset[Family]
    kinds: frozenset[Kind]
    Config: type
    """A frozen dataclass whose defaults are the field's priors."""
    parameters: Parameters
    """What a search may vary of Config; empty for rungs with nothing to tune."""
    trained: bool
    """Whether it has fidelities below its horizon that a bracket can be halved at."""
    default_share: float
    """Of the search's work that the default candidate may take; larger for rungs that win more often."""

    def skip(self, context: Context) -> str | None:
        """The sentence that says why this rung makes no sense here, or None."""

    def default(self, context: Context) -> Any:
        """The config that is tried first: the field's priors, fitted to the amount of data."""

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        """Up to n configs to try; `proposed` leaves out the default and what comes twice."""

    def cost(self, context: Context, config: Any) -> Cost:
        """Of one candidate, without what several share: the run pays features of the frozen base, a bracket its own."""

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket: ...


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """A rung with nothing to set."""


@dataclass
class MadeAtOnce:
    """A bracket whose members need no training: each is a predictor, made when the bracket is opened."""

    context: Context
    make: Callable[[int], tuple[Predictor, int]]
    """Predictor and work of member i."""
    count: int
    parameters: Callable[[int], int] = lambda member: 0
    said: tuple[str, ...] = ()
    members: list[int] = field(default_factory=list)
    done: dict[int, Predictor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = list(range(self.count))

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def horizon(self) -> int:
        return 1

    @property
    def fidelity(self) -> int:
        return int(all(member in self.done for member in self.members))

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        work = 0
        for member in self.members if members is None else [self.members[i] for i in members]:
            if fidelity >= 1 and member not in self.done:
                self.done[member], spent = self.make(member)
                work += spent
        return work

    def losses(self, rows: tuple[int, ...] | None = None) -> np.ndarray:
        if self.context.task.kind == "generate":
            return np.array([[prediction.target_loss for prediction in row] for row in self.predictions(rows)])
        if self.context.several:
            wanted_EL = self.context.wanted(self._read(rows))
            return np.array([_several_losses(row, wanted_EL, self.context.labels) for row in self.predictions(rows)])
        targets = [str(example.target) for example in self._read(rows)]
        return np.array(
            [
                [_loss(prediction, target) for prediction, target in zip(row, targets, strict=True)]
                for row in self.predictions(rows)
            ]
        )

    def reading_work(self, member: int, tokens: int) -> int:
        return tokens

    def remembers(self, member: int) -> bool:
        return False

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        read = self._read(rows)
        return [self.done[member].predict(read) for member in self.members]

    def _read(self, rows: tuple[int, ...] | None) -> Sequence[Example]:
        race = self.context.fold.race
        return race if rows is None else [race[row] for row in rows]

    def keep(self, indices: Sequence[int]) -> None:
        self.members = [self.members[i] for i in indices]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"members": self.members}

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self.members = [int(i) for i in meta["members"]]

    @property
    def layout(self) -> Any:
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.said

    def failure(self, member: int) -> str | None:
        return None

    def curve(self, member: int) -> Curve:
        return Curve()

    def trainable_parameters(self, member: int) -> int:
        return self.parameters(self.members[member])

    def predictor(self, member: int) -> Predictor:
        return self.done[self.members[member]]

    def close(self) -> None:
        self.done.clear()


def skip_reason(method: Method, context: Context) -> str | None:
    """The sentence that says why a rung is not climbed here, or None."""
    family, kind = context.base.info.family, context.task.kind
    if kind not in method.kinds:
        return f"{method.name} answers {' and '.join(sorted(method.kinds))} tasks, not {kind}"
    if family not in method.families:
        return f"{method.name} works on bases of the families {', '.join(sorted(method.families))}, not {family}"
    # a rung that does not say that it was made for several labels was not
    if context.several and not getattr(method, "several", False):
        return f"{method.name} is built for one label per text, and here a text may have several"
    return method.skip(context)


def _several_losses(predictions: Sequence[Prediction], wanted_EL: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Mean over the labels of their negative log-probabilities, [E]."""
    share_EL = np.array([[(p.scores or {})[label] for label in labels] for p in predictions])
    right_EL = np.where(wanted_EL > 0, share_EL, 1.0 - share_EL)
    loss_E: np.ndarray = -np.log(np.maximum(right_EL, 1e-12)).mean(axis=1)
    return loss_E


def _loss(prediction: Prediction, target: str) -> float:
    if prediction.scores is None:
        return float("nan")
    return -float(np.log(max(prediction.scores.get(target, 0.0), 1e-12)))
