"""Show the base some labelled rows before it is asked; change no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunewise.errors import ConfigError
from tunewise.methods.asking import (
    ASKED,
    AskedPredictor,
    AskingConfig,
    ask,
    asking,
    asking_cost,
    demonstrations,
    most_shown,
    unaskable,
)
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Space
from tunewise.seeding import generator
from tunewise.types import Cost, Example


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(AskingConfig):
    """How many rows are shown, and which."""

    rung: ClassVar[str] = "few_shot"

    shots: int = 4
    """Rows in all, as many of each label as can be."""
    draw: int = 0
    """Which rows, and in which order: both matter (Lu et al. 2022, arXiv 2104.08786)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots < 1:
            raise ConfigError(
                f"few_shot: `shots` must be 1 or more, got {self.shots}. For no examples use the method 'zero_shot'."
            )


class FewShot:
    """In-context learning (Brown et al. 2020, arXiv 2005.14165): the answer to rows that are shown is continued."""

    name = "few_shot"
    families = frozenset({"causal", "seq2seq"})
    kinds = frozenset({"classify", "generate"})
    Config = FewShotConfig
    parameters: ClassVar[Parameters] = {**ASKED, "shots": Choice((1, 2, 4, 8, 16)), "draw": Choice(tuple(range(8)))}
    trained = False
    asks = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        return unaskable(context, lambda: _made(context, self.default(context)))

    def default(self, context: Context) -> FewShotConfig:
        if context.task.kind == "generate":
            return FewShotConfig(shots=min(4, len(context.fold.train), most_shown(context)))
        shots = max(4, len(context.labels)) if len(context.labels) <= 8 else 8
        return FewShotConfig(shots=min(shots, len(context.fold.train), most_shown(context)))

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[FewShotConfig]:
        first, most = self.default(context), most_shown(context)
        tried = [(first.shots, 1, "none"), (2 * first.shots, 0, "none"), (first.shots, 0, "contextual")]
        tried += [(first.shots, 2, "none"), (2 * first.shots, 1, "contextual"), (4 * first.shots, 0, "none")]
        if context.task.kind == "generate":
            tried = [(shots, draw, "none") for shots, draw in ((first.shots, 1), (2 * first.shots, 0), (1, 0))]
        return [
            FewShotConfig(shots=shots, draw=draw, calibration=calibration)  # type: ignore[arg-type]
            for shots, draw, calibration in tried
            if shots <= min(most, len(context.fold.train))
        ][:n]

    def cost(self, context: Context, config: FewShotConfig) -> Cost:
        return asking_cost(context, _made(context, config))

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        return ask(context, configs, lambda config: _made(context, config))


def _made(context: Context, config: FewShotConfig) -> AskedPredictor:
    by_target = context.task.kind == "classify"
    rows = drawn(context.fold.train, config.shots, seed=context.task.seed, draw=config.draw, by_target=by_target)
    return asking(context, config, demonstrations(context, rows))


def drawn(train: Sequence[Example], shots: int, *, seed: int, draw: int, by_target: bool = True) -> list[Example]:
    """So many rows, as many of each label as can be, in an order that has nothing to do with their labels."""
    rng = generator(seed, "few_shot", draw)
    if not by_target:
        return [train[int(place)] for place in rng.permutation(len(train))[:shots]]
    by_label: dict[str, list[Example]] = {}
    for place in rng.permutation(len(train)):
        row = train[int(place)]
        by_label.setdefault(str(row.target), []).append(row)
    labels = sorted(by_label)
    order = [by_label[labels[int(place)]] for place in rng.permutation(len(labels))]
    picked = [rows[turn] for turn in range(shots) for rows in order if turn < len(rows)][:shots]
    return [picked[int(place)] for place in rng.permutation(len(picked))]
