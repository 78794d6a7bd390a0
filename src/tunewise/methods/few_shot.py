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
    could_write,
    demonstrations,
    most_shown,
    possible,
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
    """Which rows, and in which order."""
    order: int = 0
    """Another order of the same rows, which can matter as much as which they are (Lu et al. 2022, arXiv 2104.08786);
    0: as they were drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots < 1:
            raise ConfigError(
                f"few_shot: `shots` must be 1 or more, got {self.shots}. For no examples use the method 'zero_shot'."
            )


SHOWN: Parameters = {
    "shots": Choice((1, 2, 4, 8, 16)),
    "draw": Choice(tuple(range(8))),
    "order": Choice(tuple(range(4))),
}


class FewShot:
    """In-context learning (Brown et al. 2020, arXiv 2005.14165): the answer to rows that are shown is continued."""

    name = "few_shot"
    families = frozenset({"causal", "seq2seq"})
    kinds = frozenset({"classify", "generate"})
    Config = FewShotConfig
    parameters: ClassVar[Parameters] = {**ASKED, **SHOWN}
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
        """Each of count, rows, order and prior changed alone, then together; then as the space suggests."""
        first, most = self.default(context).shots, min(most_shown(context), len(context.fold.train))
        tried: list[dict[str, Any]] = [{"draw": 1}, {"shots": 2 * first}, {"order": 1}, {"draw": 2}]
        searched = SHOWN
        if context.task.kind == "classify":
            tried.insert(2, {"calibration": "contextual"})
            tried += [{"shots": 2 * first, "draw": 1, "calibration": "contextual"}, {"shots": 4 * first}]
            tried += [{"answer": "constrained"}] if could_write(context) else []
            searched = {**SHOWN, "calibration": ASKED["calibration"]}
        tried += [{"shots": 1}, *space.ask(searched, n)]
        found = [FewShotConfig(**{"shots": first, **values}) for values in tried]
        return possible([config for config in found if config.shots <= most], lambda c: _made(context, c))[:n]

    def cost(self, context: Context, config: FewShotConfig) -> Cost:
        return asking_cost(context, _made(context, config))

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        return ask(context, configs, lambda config: _made(context, config))


def _made(context: Context, config: FewShotConfig) -> AskedPredictor:
    by_target = context.task.kind == "classify"
    rows = drawn(context.fold.train, config.shots, seed=context.task.seed, draw=config.draw, by_target=by_target)
    if config.order:
        rng = generator(context.task.seed, "few_shot order", config.draw, config.order)
        rows = [rows[int(place)] for place in rng.permutation(len(rows))]
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
