"""What the rungs have in common whose candidates share one frozen base."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from tunewise.adapters.stack import Form, Member, Stack
from tunewise.methods.base import Bracket, Context, Parameters, Space
from tunewise.methods.bench import Bench
from tunewise.methods.top_layers import lower_blocks, on_share, top_layers, trained_tree, with_kept_states
from tunewise.methods.trained import TrainedBracket, choose_population
from tunewise.methods.trained_config import TrainedConfig, with_epochs
from tunewise.methods.training_cost import numbers_of, trained_cost
from tunewise.methods.writing import bench_for, cannot_learn
from tunewise.models.encoder import Encoder
from tunewise.predictors.base import Predictor
from tunewise.training.adapted import StackedPopulation
from tunewise.training.frozen import LowerBlocks
from tunewise.training.loop import Loop
from tunewise.training.population import WORK_ADAPTER, Population
from tunewise.training.precision import working_dtype
from tunewise.types import Cost, Family, Kind


@dataclass(frozen=True, kw_only=True)
class StackedConfig(TrainedConfig):
    """A candidate that shares its base with others."""

    varies: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "warmup_share", "label_smoothing"})
    """Settings in which the members of one stack may differ; all others are the stack's."""

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the members of one stack have in common."""
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in self.varies)

    def member(self, seed: int) -> Member:
        """What is this candidate's own in a stack."""
        return Member(seed=seed)


class StackedMethod(ABC):
    """A rung made of a `Stack`: its own file says which, where it starts and what is searched."""

    name: str
    families: frozenset[Family] = frozenset({"causal", "encoder", "masked", "seq2seq"})
    kinds: frozenset[Kind] = frozenset({"classify", "generate"})
    Config: type[StackedConfig]
    parameters: Parameters
    trained = True
    several = True
    usual_steps = 1200
    """Optimiser steps of the default, where rows and budget allow."""
    usual_epochs = (4, 30)
    """Fewest and most passes of the default over train."""
    default_share = 1 / 16
    """Of the search's work that the default candidate may take."""

    @abstractmethod
    def stack(self, context: Context, configs: Sequence[Any], model: nn.Module) -> Stack:
        """The candidates, which have one structure, on this module tree of the base.

        Where only the last blocks are adapted (a config that is a `TopLayersConfig` too), the tree holds no others.
        """

    @abstractmethod
    def finished(
        self, context: Context, config: Any, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        """The tensors that answer, and their form, of a candidate's trained tensors."""

    def bench(self, context: Context, config: Any, reserved: int) -> Bench:
        """What the loops of candidates that read the same share; `reserved`: positions that a soft prompt takes."""
        return bench_for(context, config, reserved=reserved)

    def reads(self, config: Any) -> object:
        """What tells candidates apart that do not read the same of a row."""
        return config.prompt

    def structure(self, context: Context, config: Any) -> object:
        """What the members of one stack have in common."""
        return config.structure

    def refuses(self, base: Encoder) -> str | None:
        """Why it cannot work on this base, or None."""
        return None

    def skip(self, context: Context) -> str | None:
        return cannot_learn(self.name, context) or self.refuses(context.base)

    def default(self, context: Context) -> Any:
        least, most = self.usual_epochs
        plain: StackedConfig = self.Config()  # type: ignore[call-arg]
        return with_epochs(
            plain,
            context,
            work_per_token=WORK_ADAPTER,
            steps=self.usual_steps,
            least=least,
            most=most,
            share=self.default_share,
        )

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        default = self.default(context)
        return [dataclasses.replace(default, **values) for values in space.ask(self.parameters, n)]

    def cost(self, context: Context, config: Any) -> Cost:
        shapes = self.stack(context, [config], trained_tree(context.base, config)).shapes()
        whole = trained_cost(
            context,
            config,
            work_per_token=WORK_ADAPTER,
            adapted_numbers=sum(prod(shape) for shape in shapes.values()),
            copied_numbers=numbers_of(context),
            kept_layers=self.kept_layers(context, config),
        )
        return with_kept_states(whole, context, config)

    def kept_layers(self, context: Context, config: Any) -> float | None:
        """How many layers keep what the backward pass needs of a token; None: all."""
        return top_layers(config)

    def shared_work(self, context: Context, configs: Sequence[Any]) -> int:
        """In tokens, of what is read once for all these candidates, before any of them is trained."""
        return 0

    def population(
        self, context: Context, bench: Bench, base: Encoder, configs: Sequence[Any], lower: LowerBlocks | None
    ) -> Population:
        """Candidates of one structure on the base in the numbers that training works in.

        `lower` stands in for the blocks that are not trained.
        """
        return StackedPopulation(
            base,
            lambda model: self.stack(context, configs, model if lower is None else lower.attach(model)),
            bench.head(configs[0]),
            unit_length=bench.unit_length(configs[0]),
        )

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        reserved = [self.stack(context, [config], context.base.model).reserved for config in configs]
        made: dict[object, Bench] = {}
        for config, length in zip(configs, reserved, strict=True):
            if (length, self.reads(config)) not in made:
                made[length, self.reads(config)] = self.bench(context, config, length)
        benches = {i: made[length, self.reads(configs[i])] for i, length in enumerate(reserved)}
        bench = benches[0]
        bench.work += self.shared_work(context, configs)
        base = bench.working(working_dtype(context.task.dtype, context.base))
        below = lower_blocks(base, configs, [rows.tokens for own in made.values() for rows in (own.train, own.race)])

        def build(indices: Sequence[int]) -> Loop:
            chosen, own = [configs[i] for i in indices], benches[indices[0]]
            top = top_layers(chosen[0])
            lower = None if top is None else below[top]
            return on_share(own.loop(self.population(context, own, base, chosen, lower), chosen), lower)

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            def finished(own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Form]:
                return self.finished(context, configs[index], {name: t.float() for name, t in own.items()})

            return benches[index].predictor(configs[index], tensors, finished)

        notes = [f"{self.name}: {lower.note}" for lower in below.values() if lower.note]
        groups, structures = context.layout, self._by_structure(context, configs)
        if not groups:
            groups = []
            for alike in structures:
                chosen, why = choose_population(build, alike)
                groups += chosen
                notes.append(f"{self.name}: {why}")
        return TrainedBracket(
            bench=bench, build=build, finish=finish, groups=groups, notes=notes, benches=benches, alike=structures
        )

    def _by_structure(self, context: Context, configs: Sequence[Any]) -> list[list[int]]:
        groups: dict[object, list[int]] = {}
        for i, config in enumerate(configs):
            groups.setdefault(self.structure(context, config), []).append(i)
        return list(groups.values())
