"""What every rung of the ladder is: a Method proposes candidates and opens Brackets; a Bracket ends in a Predictor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tunewise.config import Task
from tunewise.models.encoder import Encoder
from tunewise.predictors.base import Predictor
from tunewise.types import Cost, Curve, Example, Family, Finished, Kind, Prediction


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
    features: Callable[[Sequence[Example]], np.ndarray]
    """Vectors [examples, hidden] of the frozen base, float32; computed once per base, then looked up."""
    score: Callable[[Sequence[Prediction]], float]
    """The task's metric of predictions on the race part, higher is better."""
    work: int
    """What the search of this run may spend in all, in tokens of this method (backward counted twice)."""
    seed: int
    """Of this bracket: derived from the run's seed, the base, the method and the bracket's index."""
    train_tokens: int = 0
    """Unpadded tokens of `fold.train` under the task's truncation policy."""
    race_tokens: int = 0
    seconds_per_work: float = 0.0
    """Of this method on this machine, measured at start; 0 where it was not measured."""
    earlier: tuple[Finished, ...] = ()
    """Finished trials of this run, for rungs that build on others."""
    layout: Any = None
    """`Bracket.layout` of an earlier sitting: how its members were grouped is measured once and kept."""

    @property
    def fold(self) -> Fold:
        return self.folds[0]

    def target_indices(self, examples: Sequence[Example]) -> np.ndarray:
        """Index of each example's target in `labels`, int64."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[str(example.target)] for example in examples], dtype=np.int64)


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

    def advance(self, fidelity: int) -> int:
        """Bring every member to this fidelity (at most the horizon); returns the work spent by it."""

    def losses(self) -> np.ndarray:
        """Negative log-probability of each race example's target, [P, examples], float64, not temperature-scaled."""

    def predictions(self) -> list[list[Prediction]]:
        """Of each member, on the race part; none for a member that failed."""

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these, in this order."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors by name, and JSON-ready values, from which `restore` continues bit-exactly."""

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Become the bracket whose `state` this was; the bracket must have been opened with the same configs."""

    @property
    def layout(self) -> Any:
        """How members are grouped, JSON-ready; None where there is nothing to group."""

    def failure(self, member: int) -> str | None:
        """Why this member has no result although it reached its fidelity (it diverged), or None."""

    def curve(self, member: int) -> Curve: ...

    def trainable_parameters(self, member: int) -> int: ...

    def predictor(self, member: int) -> Predictor:
        """What answers as this member does; still right after the bracket is gone."""

    def close(self) -> None:
        """Give back memory and leave the shared base as it was found."""


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

    def skip(self, context: Context) -> str | None:
        """The sentence that says why this rung makes no sense here, or None."""

    def default(self, context: Context) -> Any:
        """The config that is tried first: the field's priors, fitted to the amount of data."""

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        """Up to n configs to try, the default never among them."""

    def cost(self, context: Context, config: Any) -> Cost:
        """Of one candidate; the features of the frozen base are paid by the run, not by the rungs that read them."""

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
        return int(bool(self.done))

    def advance(self, fidelity: int) -> int:
        work = 0
        for member in self.members:
            if fidelity >= 1 and member not in self.done:
                self.done[member], spent = self.make(member)
                work += spent
        return work

    def losses(self) -> np.ndarray:
        targets = [str(example.target) for example in self.context.fold.race]
        return np.array(
            [
                [_loss(prediction, target) for prediction, target in zip(row, targets, strict=True)]
                for row in self.predictions()
            ]
        )

    def predictions(self) -> list[list[Prediction]]:
        return [self.done[member].predict(self.context.fold.race) for member in self.members]

    def keep(self, indices: Sequence[int]) -> None:
        self.members = [self.members[i] for i in indices]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"members": self.members}

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self.members = [int(i) for i in meta["members"]]

    @property
    def layout(self) -> Any:
        return None

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


def _loss(prediction: Prediction, target: str) -> float:
    if prediction.scores is None:
        return float("nan")
    return -float(np.log(max(prediction.scores.get(target, 0.0), 1e-12)))
