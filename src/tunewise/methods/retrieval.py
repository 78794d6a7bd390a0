"""Answer as the most similar training examples were labelled: they are shown to a base that writes, or they vote."""

import dataclasses
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
from tunewise.methods.base import Bracket, Choice, Context, MadeAtOnce, Parameters, Real, Space
from tunewise.models.asked import Asked
from tunewise.predictors.base import Predictor
from tunewise.predictors.neighbours import Neighbours
from tunewise.predictors.retrieved import RetrievedPredictor
from tunewise.seeding import generator
from tunewise.types import Cost, Example

SHOWN = 4
DRAWN_SIZE = 8
"""Of the vectors that stand in for features where only the lengths of prompts are asked for."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(AskingConfig):
    """How many neighbours there are, and what is made of them."""

    rung: ClassVar[str] = "retrieval"

    neighbours: int = 10
    temperature: float = 0.05
    """Votes weigh exp(cosine / temperature): small values let the nearest decide alone."""
    diversity: float = 0.0
    """Of rows that are shown: how much less a row is worth for being like one that is shown already, from 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 1:
            raise ConfigError(f"retrieval: `neighbours` must be 1 or more, got {self.neighbours}.")
        if not self.temperature > 0:
            raise ConfigError(f"retrieval: `temperature` must be above 0, got {self.temperature}.")
        if not 0 <= self.diversity < 1:
            raise ConfigError(f"retrieval: `diversity` must be 0 or more and below 1, got {self.diversity}.")
        if self.calibration == "contextual":
            raise ConfigError(
                "retrieval: `calibration: contextual` needs the same prompt for all rows, and each has other "
                "neighbours. Use 'none' or 'domain'."
            )


class Retrieval:
    r"""A base that writes is shown the rows most like the question (Liu et al. 2022, arXiv 2101.06804), then asked.

    On others the k nearest neighbours vote, weighted by distance (Dudani 1976):
    $p(l|x) \propto \sum_{i \in N_k(x)} 1[y_i = l] \exp(\cos(f(x), f(x_i)) / \tau)$
    """

    name = "retrieval"
    families = frozenset({"causal", "masked", "encoder", "seq2seq"})
    kinds = frozenset({"classify", "generate"})
    Config = RetrievalConfig
    parameters: ClassVar[Parameters] = {
        **ASKED,
        "calibration": Choice(("none", "domain")),
        "neighbours": Choice((1, 2, 3, 4, 5, 8, 10, 16, 20, 40)),
        "temperature": Real(0.01, 0.3, log=True),
        "diversity": Choice((0.0, 0.3, 0.5)),
    }
    trained = False
    asks = True
    shows_similar = True
    """It looks up vectors of the frozen base where texts are written, too."""
    several = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        if _shows(context):
            return unaskable(context, lambda: _of_any_rows(context, self.default(context)))
        if context.task.kind == "generate":
            return f"retrieval: {context.base.info.name} writes nothing; texts are written by causal and seq2seq bases"
        return None

    def default(self, context: Context) -> RetrievalConfig:
        if _shows(context):
            return RetrievalConfig(neighbours=min(SHOWN, most_shown(context)))
        return RetrievalConfig()

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[RetrievalConfig]:
        if _shows(context):
            most = min(most_shown(context), len(context.fold.train))
            tried: list[dict[str, Any]] = [
                *({"neighbours": 2 * SHOWN}, {"diversity": 0.3}, {"neighbours": 1}),
                *({"neighbours": 2 * SHOWN, "diversity": 0.3}, {"diversity": 0.5}, {"neighbours": 4 * SHOWN}),
            ]
            if context.task.kind == "classify":
                tried.insert(3, {"calibration": "domain"})
                tried += [{"answer": "constrained"}] if could_write(context) else []
            found = [RetrievalConfig(**{"neighbours": SHOWN, **values}) for values in tried]
            made = [config for config in found if config.neighbours <= most]
            return possible(made, lambda config: _of_any_rows(context, config))[:n]
        grid = [(1, 0.05), (3, 0.05), (5, 0.05), (20, 0.05), (5, 0.02), (20, 0.02), (40, 0.05), (20, 0.1), (40, 0.02)]
        return [RetrievalConfig(neighbours=k, temperature=t) for k, t in grid][:n]

    def cost(self, context: Context, config: RetrievalConfig) -> Cost:
        if _shows(context):
            return asking_cost(context, _of_any_rows(context, config))
        index_bytes = 4 * len(context.fold.train) * context.base.info.hidden_size
        return Cost(work=0, seconds=0.0, memory_bytes=index_bytes, trainable_parameters=0)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        if _shows(context):
            return ask(context, configs, lambda config: _asking(context, config))
        train = context.fold.train
        vector_EH = context.features(train)
        targets = context.targets(train)

        def make(member: int) -> tuple[Predictor, int]:
            predictor = RetrievedPredictor(
                base=context.base,
                labels=context.labels,
                policy=context.task.truncation,
                vector_NH=vector_EH,
                target_N=targets,
                texts=tuple("\n".join(example.texts) for example in train),
                neighbours=min(configs[member].neighbours, len(train)),
                temperature=configs[member].temperature,
                features=context.features,
                thresholds=context.thresholds,
            )
            return predictor, 0

        return MadeAtOnce(context, make, len(configs))


def _shows(context: Context) -> bool:
    """Whether neighbours are shown to the base, or vote."""
    return isinstance(context.base, Asked) and context.base.writes


def _of_any_rows(context: Context, config: RetrievalConfig) -> AskedPredictor:
    """What has the prompts' usual lengths, before anything is computed: rows of train, drawn for each question."""

    def drawn(examples: Sequence[Example], layer: int | None = None) -> np.ndarray:
        return generator(context.seed, "any rows").normal(size=(len(examples), DRAWN_SIZE))

    return _asking(dataclasses.replace(context, features=drawn), config)


def _asking(context: Context, config: RetrievalConfig) -> AskedPredictor:
    rows = _different(context.fold.train)
    neighbours = Neighbours(
        rows=demonstrations(context, rows),
        vector_NH=context.features(rows),
        count=min(config.neighbours, len(rows)),
        diversity=config.diversity,
    )
    return asking(context, config, neighbours=neighbours)


def _different(train: Sequence[Example]) -> list[Example]:
    """Rows that ask different things: of several right answers to one input the first is shown."""
    found: dict[tuple[object, ...], Example] = {}
    for row in train:
        found.setdefault((*row.texts, *row.messages), row)
    return list(found.values())
