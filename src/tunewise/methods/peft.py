"""Train any adapter of the PEFT library, one candidate after another."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from tunewise.adapters.peft_any import (
    check_options,
    check_type,
    completed,
    form_of,
    prompt_length,
    sentence_of,
)
from tunewise.errors import ModelError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.bench import Bench
from tunewise.methods.trained import TrainedBracket
from tunewise.methods.trained_config import TrainedConfig, with_epochs
from tunewise.methods.training_cost import numbers_of, trained_cost
from tunewise.methods.writing import bench_for, cannot_learn
from tunewise.models.encoder import Batch, Encoder, collate
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.training.loop import Loop
from tunewise.training.peft_population import PeftPopulation
from tunewise.training.population import WORK_ADAPTER, HeadStart, Key, split_head
from tunewise.training.precision import cast_base, working_dtype
from tunewise.types import Cost, Family, Kind


@dataclass(frozen=True, kw_only=True)
class PeftRungConfig(TrainedConfig):
    """How an adapter of the library is made and trained."""

    rung: ClassVar[str] = "peft"

    learning_rate: float = 3e-3
    """Between what low-rank updates like (1e-3) and what single vectors like (1e-2); searched both ways."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the library's config. What is not named is the library's default, except that the target modules are all
    linear layers of the blocks (for LN_TUNING their norms) and that a soft prompt has 20 tokens."""


SEARCHED: Parameters = {"learning_rate": Real(1e-4, 3e-2, log=True), "batch_size": Choice((32, 16))}


@dataclass(frozen=True)
class Rehearsal:
    """What trying an adapter on a base has shown."""

    refusal: str | None
    trained_numbers: int
    """Of the adapter, without the head."""


_rehearsed: "WeakKeyDictionary[Encoder, dict[str, Rehearsal]]" = WeakKeyDictionary()


class Peft:
    """An adapter of the PEFT library, by its type, as `peft:VERA`; candidates are trained one by one.

    It is not on the ladder: it runs where a task names it. Its place in the order of cost is just before `full`, after
    every rung of our own that trains an adapter: those share a pass between candidates, this one does not.
    What the library does outside the forward pass (AdaLoRA's moving ranks) has no part in the training.
    """

    families: frozenset[Family] = frozenset({"causal", "encoder", "masked", "seq2seq"})
    kinds: frozenset[Kind] = frozenset({"classify", "generate"})
    Config: type = PeftRungConfig
    parameters = SEARCHED
    trained = True
    default_share = 1 / 16

    def __init__(self, peft_type: str) -> None:
        """`peft_type`: the library's name of it, in capitals.

        Raises:
            ConfigError: the library has no such type, or it cannot be used here.
        """
        self.peft_type = check_type(peft_type)
        self.name = f"peft:{peft_type}"

    def skip(self, context: Context) -> str | None:
        return (
            cannot_learn(self.name, context)
            or self._unwritable(context)
            or self._rehearse(context, PeftRungConfig()).refusal
        )

    def _unwritable(self, context: Context) -> str | None:
        """Why this adapter cannot take part in writing, or None."""
        if context.task.kind != "generate" or not prompt_length(self._options(context.base, PeftRungConfig())):
            return None
        return f"{self.name}: its virtual tokens have no part in writing here. Use prompt_tuning or prefix_tuning."

    def default(self, context: Context) -> PeftRungConfig:
        return with_epochs(
            PeftRungConfig(),
            context,
            work_per_token=WORK_ADAPTER,
            steps=1200,
            least=4,
            most=30,
            share=self.default_share,
        )

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[PeftRungConfig]:
        default = self.default(context)
        return [dataclasses.replace(default, **values) for values in space.ask(self.parameters, n)]

    def cost(self, context: Context, config: PeftRungConfig) -> Cost:
        return trained_cost(
            context,
            config,
            work_per_token=WORK_ADAPTER,
            adapted_numbers=self._rehearse(context, config).trained_numbers,
            copied_numbers=numbers_of(context),
        )

    def open(self, context: Context, configs: Sequence[PeftRungConfig]) -> Bracket:
        options = [self._options(context.base, config) for config in configs]
        lengths = [prompt_length(each) for each in options]
        made: dict[object, Bench] = {}
        for config, length in zip(configs, lengths, strict=True):
            if (length, config.prompt) not in made:
                made[length, config.prompt] = bench_for(context, config, reserved=length)
        benches = {i: made[length, configs[i].prompt] for i, length in enumerate(lengths)}
        base = benches[0].working(working_dtype(context.task.dtype, context.base))

        def build(indices: Sequence[int]) -> Loop:
            (index,) = indices
            bench = benches[index]
            population = PeftPopulation(
                base,
                self.peft_type,
                options[index],
                bench.head(configs[index]),
                seed=context.seed,
                unit_length=bench.unit_length(configs[index]),
            )
            return bench.loop(population, [configs[index]])

        def finish(index: int, tensors: Mapping[str, Tensor]) -> Predictor:
            form = form_of(self.peft_type)(options=options[index])
            return benches[index].predictor(configs[index], tensors, lambda own: (own, form))

        groups = [[i] for i in range(len(configs))]
        return TrainedBracket(bench=benches[0], build=build, finish=finish, groups=groups, benches=benches)

    def _options(self, base: Encoder, config: PeftRungConfig) -> dict[str, Any]:
        check_options(self.peft_type, config.options)
        return completed(self.peft_type, base.model, config.options)

    def _rehearse(self, context: Context, config: PeftRungConfig) -> Rehearsal:
        """One training pass over a few words, once per base and options: libraries refuse late."""
        known = _rehearsed.setdefault(context.base, {})
        key = f"{self.peft_type} {context.task.dtype} {json.dumps(dict(config.options), sort_keys=True, default=str)}"
        if key not in known:
            base = cast_base(context.base, working_dtype(context.task.dtype, context.base))
            try:
                known[key] = Rehearsal(None, self._tried(base, self._options(base, config)))
            except ModelError as error:
                known[key] = Rehearsal(str(error), 0)
            except Exception as error:  # noqa: BLE001 - what the library raises is as varied as its adapters
                known[key] = Rehearsal(f"{self.name}: {sentence_of(error)}", 0)
        return known[key]

    def _tried(self, base: Encoder, options: Mapping[str, Any]) -> int:
        """Numbers that are trained.

        Raises:
            ModelError: the library refuses the base; or training would change nothing, or be lost on disk.
        """
        population = PeftPopulation(base, self.peft_type, options, HeadStart(labels=2), seed=0)
        head = 2 * base.info.hidden_size + 2
        tokens = base.encode([("a few words",), ("words",)], "keep_start")
        batch = collate(tokens, [0, 1], pad_id=base.pad_id, device=base.device)
        values_PN = population.flat.values_PN
        rng = torch.Generator().manual_seed(0)
        values_PN[:] += 0.05 * torch.randn(values_PN.shape, generator=rng).to(values_PN)
        population.refresh()
        population.logits(batch, [0], Key(0, np.arange(2))).square().sum().backward()  # type: ignore[no-untyped-call]
        population.gather()
        gradients = population.flat.views(population.flat.grads_PN)
        adapter, _, _ = split_head(gradients)
        if not any(bool(gradient.any()) for gradient in adapter.values()):
            raise ModelError(f"{self.name}: nothing of it reaches the answer of this base, so it cannot learn.")
        self._kept(base, options, population, batch)
        return population.trainable_parameters(0) - head

    def _kept(self, base: Encoder, options: Mapping[str, Any], population: PeftPopulation, batch: Batch) -> None:
        tensors, _, _ = split_head(population.export(population.flat.values_PN[0]))
        form = form_of(self.peft_type)(options=options)
        again = AdaptedPredictor(
            base=base,
            labels=("a", "b"),
            policy="keep_start",
            weight_LH=np.zeros((2, base.info.hidden_size)),
            bias_L=np.zeros(2),
            tensors=tensors,
            adapter=form,
        )
        with torch.no_grad():
            trained, loaded = (each.forward(batch).float() for each in (population.encoder, again.encoder))
        if float((trained - loaded).norm()) > 1e-2 * float(trained.norm()):
            raise ModelError(f"{self.name}: the library does not keep all of it on disk, so it would answer otherwise.")
