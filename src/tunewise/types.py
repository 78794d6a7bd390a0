"""The nouns that travel between all parts: examples, predictions, scores, trials."""

import dataclasses
import enum
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["classify", "generate"]
Family = Literal["causal", "masked", "encoder", "seq2seq", "hosted"]
Target = str | tuple[str, ...]
"""One label, or, where a text may have several or none, all it has, sorted."""
NONE = "(none)"
UNPARSABLE = "(unparsable)"
"""Before an answer that was written and holds no label."""
GAP, NEXT = "\ufdd0", "\ufdd1"
"""In the text of a prompt for a base that fills gaps: where the answer stands, and where another text begins. No text
holds them by itself: Unicode keeps them free for such use."""
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    weight: int = 1
    """Of a turn of the assistant: whether it is learnt from, 1, or only read, 0."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of a task: what is read, what is wanted, and what it belongs to."""

    id: str
    fields: Mapping[str, str]
    """Input columns by name, in the task's order; one text, or two for a pair."""
    target: Target | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    """Values of the columns that scores are broken down by; never a feature, never used to split."""
    cluster: str | None = None
    """Rows that share it are kept together in splits and resampled together."""
    references: tuple[str, ...] = ()
    """Further right answers beside `target`, where it is a text to be written."""
    messages: tuple[Message, ...] = ()
    """Where the row is a conversation: its turns before the answer; `fields` holds the last of the user's."""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.fields.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it has: one, several or none."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target

    @functools.cached_property
    def digest(self) -> str:
        """Hash of what is read and wanted (not of id, slices or cluster): the same content is the same example."""
        wanted = f"\x01{self.target}" if isinstance(self.target, str) else "\x02".join(("\x02", *self.labels))
        parts = [*self.fields.keys(), *self.fields.values(), "\x00" if self.target is None else wanted]
        # each with a mark before it, and only where there are any: most examples have neither
        parts += [f"\x03{text}" for text in self.references]
        parts += [f"\x04{turn.role}\x02{turn.weight}\x02{turn.content}" for turn in self.messages]
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a predictor says about one example."""

    text: str
    """The label, or the generated text; of several labels, their names joined."""
    labels: tuple[str, ...] | None = None
    """Where a text may have several labels: those it is given, in the order of the task; None elsewhere."""
    scores: Mapping[str, float] | None = None
    """Probability of each label; they sum to 1 unless there may be several. None where the predictor has none."""
    evidence: tuple[str, ...] = ()
    """Training texts or passages the answer rests on, nearest first."""
    abstained: bool = False
    target_log_probability: float | None = None
    """Natural log of the probability of the example's target text, summed over its tokens; None where nobody asked."""
    target_tokens: int | None = None
    """How many tokens that sum is over."""

    @property
    def target_loss(self) -> float:
        """Negative natural log-probability of the target text by token; NaN where it is not known."""
        if self.target_log_probability is None or not self.target_tokens:
            return math.nan
        return -self.target_log_probability / self.target_tokens

    @property
    def log_probability(self) -> float | None:
        """Natural log of the probability given to the answer; None without scores."""
        if self.scores is None:
            return None
        if self.labels is not None:
            shares = [share if label in self.labels else 1.0 - share for label, share in self.scores.items()]
            return sum(math.log(share) if share > 0 else -math.inf for share in shares)
        share = self.scores[self.text]
        return math.log(share) if share > 0 else -math.inf


def target_text(target: Target | None) -> str:
    """A target as it is shown: the label, or the labels joined."""
    if target is None or isinstance(target, str):
        return str(target)
    return " | ".join(target) or NONE


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric on a set, with its confidence interval and what both were computed with."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    method: str
    """How the interval was made: "wilson", "bca bootstrap over examples", ..."""
    caution: str | None = None
    """Why the interval may not hold here (rare classes, share near 1), or None."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a candidate is expected to take; work is forward-equivalent unpadded tokens, backward counted twice."""

    work: int
    seconds: float
    memory_bytes: int
    trainable_parameters: int
    fits: str | None = None
    """None when it fits this machine, else the sentence that says why it does not."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One method with one configuration on one base."""

    method: str
    base: str
    config: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Short stable digest that names the candidate in the ledger and on disk."""
        text = json.dumps([self.method, self.base, dict(self.config)], sort_keys=True)
        return f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Status(enum.StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"
    OUT_OF_BUDGET = "out_of_budget"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One member's course: dev loss (mean natural-log loss) and train loss by optimiser step."""

    train_steps: tuple[int, ...] = ()
    train_losses: tuple[float, ...] = ()
    dev_steps: tuple[int, ...] = ()
    dev_losses: tuple[float, ...] = ()
    best_step: int = -1
    """Where dev loss at its best temperature was lowest; -1 where dev was never scored."""
    horizon: int = 0
    """Optimiser steps that this member's course is laid out for."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A candidate that reached its horizon and was measured on the race part of dev."""

    candidate: Candidate
    score: float
    """The task's metric on race."""
    loss: float | None
    """Mean negative log-probability of the targets on race: of labels temperature-scaled, of texts by token. None where
    it is not known."""
    work: int
    seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    folder: str | None = None
    """Where its predictor lies, relative to the run folder; None for candidates that a sibling beat."""
    curve: Curve = Curve()
    notes: tuple[str, ...] = ()
    status: Literal[Status.FINISHED] = Status.FINISHED


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A candidate without a score, and the sentence that says why; never a number in disguise."""

    candidate: Candidate
    status: Literal[Status.FAILED, Status.SKIPPED, Status.OUT_OF_BUDGET]
    reason: str
    work: int = 0
    seconds: float = 0.0
    curve: Curve = Curve()


Trial = Finished | Unfinished


def to_plain(value: object) -> Any:
    """Dataclasses, tuples, mappings and enums as JSON-ready dicts, lists and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value
