"""Train soft tokens in front of the text of a frozen base, many candidates at once."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from tunewise.adapters.soft_prompt import SoftPromptForm, SoftPromptStack, TextMember, dimensions
from tunewise.adapters.stack import Form
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.stacked import StackedConfig, StackedMethod
from tunewise.models.encoder import Encoder
from tunewise.prompts.labels import in_words
from tunewise.seeding import generator
from tunewise.training.loop import Settings

PromptStart = Literal["vocabulary", "labels", "instruction"]

FREQUENT = 5000
"""A prompt starts at tokens among this many most frequent ones (Lester et al. 2021, section 3.2)."""
COUNTED_ROWS = 1000
"""Training rows that frequency is counted on."""


@dataclass(frozen=True, kw_only=True)
class VirtualTokenConfig(StackedConfig):
    """How many virtual tokens stand in front of the text, and how fast they learn."""

    varies: ClassVar[frozenset[str]] = StackedConfig.varies | {"start"}

    length: int = 16
    """Virtual tokens; each takes one position from the text."""
    head_share: float = 0.03
    """The head's learning rate as a share of `learning_rate`, which is that of the virtual tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ConfigError(
                f"{self.rung}: `length` must be 1 or more, got {self.length}. For no virtual token use 'linear_probe'."
            )
        if not 0 < self.head_share <= 1:
            raise ConfigError(
                f"{self.rung}: `head_share` must lie between 0 (not included) and 1, got {self.head_share}."
            )

    @property
    def settings(self) -> Settings:
        return dataclasses.replace(super().settings, learning_rate=self.learning_rate * self.head_share)

    @property
    def token_rate(self) -> float:
        """What undoes `head_share` for the virtual tokens."""
        return 1.0 / self.head_share


class VirtualTokens(StackedMethod):
    """A rung that stands in front of the text and takes positions from it."""

    usual_steps = 2400
    usual_epochs = (6, 60)
    Config: type[VirtualTokenConfig]

    def refuses(self, base: Encoder) -> str | None:
        return _no_room(self.name, self.Config().length, base)  # type: ignore[call-arg]

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        proposed = super().propose(context, space, rng, n)
        return [config for config in proposed if _no_room(self.name, config.length, context.base) is None]

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        """As for every rung.

        Raises:
            ConfigError: a candidate leaves too little room for the text.
        """
        for config in configs:
            reason = _no_room(self.name, config.length, context.base)
            if reason is not None:
                raise ConfigError(reason)
        return super().open(context, configs)


def _no_room(rung: str, length: int, base: Encoder) -> str | None:
    """Why so many virtual tokens are too many for a base, or None: the text keeps at least half of the positions."""
    limit = base.info.max_tokens
    if 2 * length <= limit:
        return None
    return (
        f"{rung}: {length} virtual tokens leave {max(0, limit - length)} of the {limit} positions of {base.info.name} "
        f"to the text. Set `length` to {limit // 2} or less."
    )


def words_of(base: Encoder, text: str) -> list[int]:
    """Token ids of a text without the special tokens around it; with them where nothing else is left."""
    ids = base.encode([(text,)], "keep_start").ids[0].tolist()
    special = set(base.tokenizer.all_special_ids)
    return [token for token in ids if token not in special] or ids


def drawn_rows(context: Context, *names: object) -> Iterator[str]:
    """The texts of the training rows, drawn one after another."""
    train = context.fold.train
    for row in generator(context.seed, *names).permutation(len(train)):
        yield " ".join(train[row].texts)


def start_tokens(context: Context, start: PromptStart, length: int) -> list[int]:
    """Token ids a soft prompt starts from; never empty, perhaps not as many as asked for."""
    base, labels = context.base, context.labels
    if start == "labels" and not labels:
        raise ConfigError("prompt_tuning: `start: labels` needs labels, and here texts are written. Use 'vocabulary'.")
    if start == "labels":
        return [token for label in labels for token in words_of(base, in_words(label))]
    if start == "instruction":
        return words_of(base, context.task.instruction or _instruction(context))
    counts: Counter[int] = Counter()
    for _, text in zip(range(COUNTED_ROWS), drawn_rows(context, "prompt_tuning", "counted"), strict=False):
        counts.update(words_of(base, text))
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:FREQUENT]
    rng = generator(context.seed, "prompt_tuning", "vocabulary")
    return [int(token) for token in rng.permutation(frequent)[:length]]


def _instruction(context: Context) -> str:
    """What is asked, where the task does not say it."""
    if not context.labels:
        return f"{in_words(context.task.name)}: what is the answer to this text?"
    choices = ", ".join(in_words(label) for label in context.labels)
    return f"{in_words(context.task.name)}: which of {choices} is this text?"


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(VirtualTokenConfig):
    """How a soft prompt starts and is trained."""

    rung: ClassVar[str] = "prompt_tuning"

    learning_rate: float = 0.05
    """High, for a token's embedding has to travel far and nothing else moves (Lester et al. 2021: 0.3)."""
    start: PromptStart = "vocabulary"
    """At embeddings of: frequent tokens of the training rows; the words of the labels; an instruction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("vocabulary", "labels", "instruction"):
            raise ConfigError(f"prompt_tuning: `start` is 'vocabulary', 'labels' or 'instruction', got {self.start!r}.")


SEARCHED: Parameters = {
    "learning_rate": Real(0.01, 0.3, log=True),
    "start": Choice(("vocabulary", "labels", "instruction")),
    "batch_size": Choice((32, 16)),
    "length": Choice((16, 8, 32)),
}


class PromptTuning(VirtualTokens):
    r"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): soft tokens before the input, and a linear head.

    $h = f_\theta([P; E(x)])$ with $\theta$ and the embeddings $E(x) \in R^{t \times e}$ frozen and
    $P \in R^{m \times e}$ trained; the head reads $h$ at the positions of the text. As in PEFT, the text's positions
    are counted after the prompt, and the two texts of a pair are not told apart by token types.
    """

    name = "prompt_tuning"
    Config = PromptTuningConfig
    parameters = SEARCHED

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        """Where texts are written there are no labels to start from."""
        proposed = super().propose(context, space, rng, n)
        return [config for config in proposed if context.labels or config.start != "labels"]

    def stack(self, context: Context, configs: Sequence[PromptTuningConfig], model: nn.Module) -> SoftPromptStack:
        first = configs[0]
        members = [
            TextMember(seed=context.seed, text=partial(start_tokens, context, config.start, config.length))
            for config in configs
        ]
        return SoftPromptStack(model, members, length=first.length, rate=first.token_rate)

    def finished(
        self, context: Context, config: PromptTuningConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        layers, heads, _ = dimensions(context.base.model)
        return tensors, SoftPromptForm(layers=layers, heads=heads)
