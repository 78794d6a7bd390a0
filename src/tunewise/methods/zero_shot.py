"""Answer without a single labelled example: by the likeliest label's words, or by the label nearest to the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tunewise.errors import ConfigError
from tunewise.methods.answering import AnsweringBracket
from tunewise.methods.asking import (
    ASKED,
    AskingConfig,
    ask,
    asking,
    asking_cost,
    could_write,
    no_head,
    possible,
    unaskable,
)
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
    """What stands for a label: its words, for a base that can be asked, or a text to be near to."""

    rung: ClassVar[str] = "zero_shot"

    by: Literal["words", "similarity"] = "words"
    """`words`: by how likely the base finds each label's words; `similarity`: by how near text and label lie."""
    label_text: Literal["description", "name"] = "description"
    """Of a label that is compared. `description`: the task's sentence where it has one; `name`: its name in words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("words", "similarity"):
            raise ConfigError(f"zero_shot: `by` is 'words' or 'similarity', got {self.by!r}.")
        if self.label_text not in ("description", "name"):
            raise ConfigError(f"zero_shot: `label_text` is 'description' or 'name', got {self.label_text!r}.")


class ZeroShot:
    r"""A base that writes or fills gaps is asked: $p(l|x) \propto p(w_l | \mathrm{prompt}(x))$.

    What the words have without x is taken off where that is asked for. Of gaps see Petroni et al. 2019 (arXiv
    1909.01066). Others, and those that fill gaps where that is asked for, compare text and label by embedding:
    $p(l|x) \propto \exp(20 \cos(f(x), f(l)))$ (Yin et al. 2019). Of several labels each has its own sigmoid, centred
    where the train texts, unlabelled, lie on average.
    """

    name = "zero_shot"
    families = frozenset({"causal", "masked", "encoder", "seq2seq"})
    kinds = frozenset({"classify", "generate"})
    Config = ZeroShotConfig
    parameters: ClassVar[Parameters] = {"label_text": Choice(("description", "name")), **ASKED}
    trained = False
    asks = True
    several = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        if self.default(context).by == "words":
            return unaskable(context, lambda: asking(context, self.default(context)))
        if context.task.kind == "generate":
            return f"zero_shot: {context.base.info.name} writes nothing; texts are written by causal and seq2seq bases"
        if all(
            in_words(label).replace(" ", "").isdigit() and label not in context.task.labels for label in context.labels
        ):
            return (
                "the labels are numbers, which say nothing about their meaning; "
                "give each a description under `labels` in the task to climb this rung."
            )
        return None

    def default(self, context: Context) -> ZeroShotConfig:
        """A base that can be compared by as well is so where it cannot be asked."""
        if not isinstance(context.base, Asked):
            return ZeroShotConfig(by="similarity")
        if context.base.writes or unaskable(context, lambda: asking(context, ZeroShotConfig())) is None:
            return ZeroShotConfig()
        return ZeroShotConfig(by="similarity")

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[ZeroShotConfig]:
        if self.default(context).by == "similarity":
            return [ZeroShotConfig(by="similarity", label_text="name")][:n]
        if context.task.kind == "generate":
            return []
        tried = [("sum", "contextual"), ("sum", "domain"), ("token", "none"), ("token", "contextual")]
        asked = [ZeroShotConfig(length=length, calibration=how) for length, how in tried]  # type: ignore[arg-type]
        if could_write(context):
            asked += [ZeroShotConfig(answer="constrained"), ZeroShotConfig(answer="written")]
        asked = possible(asked, lambda config: asking(context, config))
        compared = [] if _asked(context).writes else [ZeroShotConfig(by="similarity")]
        return [*asked[:1], *compared, *asked[1:]][:n]

    def cost(self, context: Context, config: ZeroShotConfig) -> Cost:
        if config.by == "words":
            _asked(context)
            return asking_cost(context, asking(context, config))
        return Cost(work=0, seconds=0.0, memory_bytes=0, trainable_parameters=0)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        def make(member: int) -> tuple[Predictor, int]:
            if configs[member].by == "similarity":
                return _comparing(context, configs[member]), 0
            predictor = asking(context, configs[member])
            return predictor, asking_cost(context, predictor).work

        asked = [config for config in configs if config.by == "words"]
        if not asked:
            return MadeAtOnce(context, make, len(configs), said=_why_compared(context))
        _asked(context)
        whole = ask(context, asked, lambda config: asking(context, config))
        return AnsweringBracket(context, make, len(configs), said=whole.notes, parts=whole.horizon)


def _comparing(context: Context, config: ZeroShotConfig) -> HeadPredictor:
    """What answers by the label whose text lies nearest."""
    described = context.task.labels if config.label_text == "description" else {}
    texts = [described.get(label, in_words(label)) for label in context.labels]
    rows = [Example(id=f"label-{i}", fields={"text": text}) for i, text in enumerate(texts)]
    vector_LH = _unit(context.features(rows))
    middle_L = np.zeros(len(texts), dtype=np.float32)
    if context.several:
        middle_L = vector_LH @ _unit(context.features(context.fold.train)).mean(axis=0)
    return HeadPredictor(
        base=context.base,
        labels=context.labels,
        policy=context.task.truncation,
        weight_LH=SCALE * vector_LH,
        bias_L=-SCALE * middle_L,
        unit_length=True,
        features=context.features,
        thresholds=context.thresholds,
    )


def _why_compared(context: Context) -> tuple[str, ...]:
    """Why a base that was pre-trained on masked words is not asked for them, in a sentence; nothing for others."""
    base = context.base
    if base.info.family != "masked":
        return ()
    if not isinstance(base, Asked):
        return (f"zero_shot: labels are compared, not asked for: {no_head(base)}",)
    why = unaskable(context, lambda: asking(context, ZeroShotConfig()))
    return () if why is None else (f"zero_shot: labels are compared, not asked for: {why}",)


def _asked(context: Context) -> Asked:
    """The base, which must be one that can be asked.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(context.base, Asked):
        raise ConfigError(
            f"zero_shot: `by: words` needs a base that says how likely words are, and {context.base.info.name} does "
            "not. Use 'similarity'."
        )
    return context.base


def _unit(vector_EH: np.ndarray) -> np.ndarray:
    unit_EH: np.ndarray = vector_EH / np.maximum(np.linalg.norm(vector_EH, axis=1, keepdims=True), 1e-12)
    return unit_EH
