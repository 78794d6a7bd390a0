"""Answer without a single labelled example: by the likeliest label's words, or by the label nearest to the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tunewise.errors import ConfigError
from tunewise.methods.asking import ASKED, AskingConfig, ask, asking, asking_cost, unaskable
from tunewise.methods.base import Bracket, Choice, Context, MadeAtOnce, Parameters, Space
from tunewise.models.asked import Asked
from tunewise.predictors.base import Predictor
from tunewise.predictors.head import HeadPredictor
from tunewise.prompts.labels import in_words
from tunewise.types import Cost, Example

SCALE = 20.0
"""Turns cosines into logits; sentence encoders are trained with this factor (Reimers and Gurevych 2019)."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(AskingConfig):
    """What stands for a label: for a base that writes its words, for others a text to be near to."""

    rung: ClassVar[str] = "zero_shot"

    label_text: Literal["description", "name"] = "description"
    """`description`: the task's sentence for the label where it has one; `name`: the label's name in words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_text not in ("description", "name"):
            raise ConfigError(f"zero_shot: `label_text` is 'description' or 'name', got {self.label_text!r}.")


class ZeroShot:
    r"""A base that writes is asked: $p(l|x) \propto p(w_l | \mathrm{prompt}(x))$, less what the words have without x.

    Others compare text and label by embedding: $p(l|x) \propto \exp(20 \cos(f(x), f(l)))$ (Yin et al. 2019). Of several
    labels each has its own sigmoid, centred where the train texts, unlabelled, lie on average.
    """

    name = "zero_shot"
    families = frozenset({"causal", "masked", "encoder"})
    kinds = frozenset({"classify", "generate"})
    Config = ZeroShotConfig
    parameters: ClassVar[Parameters] = {"label_text": Choice(("description", "name")), **ASKED}
    trained = False
    asks = True
    several = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        if isinstance(context.base, Asked):
            return unaskable(context, lambda: asking(context, self.default(context)))
        if context.task.kind == "generate":
            return f"zero_shot: {context.base.info.name} writes nothing; texts are written by causal bases"
        if all(
            in_words(label).replace(" ", "").isdigit() and label not in context.task.labels for label in context.labels
        ):
            return (
                "the labels are numbers, which say nothing about their meaning; "
                "give each a description under `labels` in the task to climb this rung."
            )
        return None

    def default(self, context: Context) -> ZeroShotConfig:
        return ZeroShotConfig()

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[ZeroShotConfig]:
        if not isinstance(context.base, Asked):
            return [ZeroShotConfig(label_text="name")][:n]
        if context.task.kind == "generate":
            return []
        tried = [("sum", "contextual"), ("sum", "domain"), ("token", "none"), ("token", "contextual")]
        return [ZeroShotConfig(length=length, calibration=how) for length, how in tried][:n]  # type: ignore[arg-type]

    def cost(self, context: Context, config: ZeroShotConfig) -> Cost:
        if isinstance(context.base, Asked):
            return asking_cost(context, asking(context, config))
        return Cost(work=0, seconds=0.0, memory_bytes=0, trainable_parameters=0)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        if isinstance(context.base, Asked):
            return ask(context, configs, lambda config: asking(context, config))

        def make(member: int) -> tuple[Predictor, int]:
            described = context.task.labels if configs[member].label_text == "description" else {}
            texts = [described.get(label, in_words(label)) for label in context.labels]
            rows = [Example(id=f"label-{i}", fields={"text": text}) for i, text in enumerate(texts)]
            vector_LH = _unit(context.features(rows))
            middle_L = np.zeros(len(texts), dtype=np.float32)
            if context.several:
                middle_L = vector_LH @ _unit(context.features(context.fold.train)).mean(axis=0)
            predictor = HeadPredictor(
                base=context.base,
                labels=context.labels,
                policy=context.task.truncation,
                weight_LH=SCALE * vector_LH,
                bias_L=-SCALE * middle_L,
                unit_length=True,
                features=context.features,
                thresholds=context.thresholds,
            )
            return predictor, 0

        return MadeAtOnce(context, make, len(configs))


def _unit(vector_EH: np.ndarray) -> np.ndarray:
    unit_EH: np.ndarray = vector_EH / np.maximum(np.linalg.norm(vector_EH, axis=1, keepdims=True), 1e-12)
    return unit_EH
