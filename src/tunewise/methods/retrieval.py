"""Answer as the most similar training examples were labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, MadeAtOnce, Parameters, Real, Space
from tunewise.predictors.base import Predictor
from tunewise.predictors.retrieved import RetrievedPredictor
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """How many neighbours vote, and how fast a vote fades with distance."""

    neighbours: int = 10
    temperature: float = 0.05
    """Votes weigh exp(cosine / temperature): small values let the nearest decide alone."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"retrieval: `neighbours` must be 1 or more, got {self.neighbours}.")
        if not self.temperature > 0:
            raise ConfigError(f"retrieval: `temperature` must be above 0, got {self.temperature}.")


class Retrieval:
    r"""k nearest neighbours with distance-weighted votes (Dudani 1976).

    $p(l|x) \propto \sum_{i \in N_k(x)} 1[y_i = l] \exp(\cos(f(x), f(x_i)) / \tau)$
    """

    name = "retrieval"
    families = frozenset({"masked", "encoder"})
    kinds = frozenset({"classify"})
    Config = RetrievalConfig
    parameters: ClassVar[Parameters] = {
        "neighbours": Choice((1, 3, 5, 10, 20, 40)),
        "temperature": Real(0.01, 0.3, log=True),
    }
    trained = False
    several = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        return None

    def default(self, context: Context) -> RetrievalConfig:
        return RetrievalConfig()

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[RetrievalConfig]:
        grid = [(1, 0.05), (3, 0.05), (5, 0.05), (20, 0.05), (5, 0.02), (20, 0.02), (40, 0.05), (20, 0.1), (40, 0.02)]
        return [RetrievalConfig(neighbours=k, temperature=t) for k, t in grid][:n]

    def cost(self, context: Context, config: RetrievalConfig) -> Cost:
        index_bytes = 4 * len(context.fold.train) * context.base.info.hidden_size
        return Cost(work=0, seconds=0.0, memory_bytes=index_bytes, trainable_parameters=0)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
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
