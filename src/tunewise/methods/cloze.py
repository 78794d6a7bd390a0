"""Train low-rank updates of a base that is asked for each label's word, from the words' own probabilities on."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tunewise.adapters.lora import LoraStack
from tunewise.adapters.stack import Form
from tunewise.errors import ConfigError, PromptError
from tunewise.methods.asking import SAMPLED, PromptConfig, prompt_of, unaskable
from tunewise.methods.base import Choice, Context, Parameters, Real
from tunewise.methods.lora import Lora, LoraConfig
from tunewise.methods.stacked import StackedMethod
from tunewise.methods.trained import LabelBench, TrainedConfig, nothing_to_learn
from tunewise.models.asked import common_start
from tunewise.models.causal import Causal
from tunewise.models.encoder import Encoder
from tunewise.predictors.prompted import prompt_tokens
from tunewise.prompts.prompt import Prompt
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.types import Cost, Example, Kind


@dataclass(frozen=True, kw_only=True)
class ClozeConfig(LoraConfig, PromptConfig):
    """How the base is asked, and how it is trained to answer."""

    rung: ClassVar[str] = "cloze"

    head_init: Literal["words", "zeros"] = "words"  # type: ignore[assignment]
    """Where the head starts: at what the base has for the first token of each label's words, or at zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_init not in ("words", "zeros"):
            raise ConfigError(f"cloze: `head_init` is 'words' or 'zeros', got {self.head_init!r}.")


SEARCHED: Parameters = {
    "learning_rate": Real(1e-4, 5e-3, log=True),
    "dropout": Choice((0.0, 0.1)),
    "batch_size": Choice((32, 16)),
    "rank": Choice((8, 16)),
}


class Cloze(StackedMethod):
    r"""Prompt-based fine-tuning (Schick and Schütze 2021, arXiv 2001.07676; Gao et al. 2021, arXiv 2012.15723).

    $p(l|x) \propto \exp(w_l \cdot h(\mathrm{prompt}(x)))$ with $h$ the hidden state that the base would write the
    answer from and $w_l$, at the start, the output embedding of the first token of the label's words: training begins
    at what the base already knows of the labels. Updates of $h$ are low-rank (LoRA); $w$ is trained with them.
    """

    name = "cloze"
    families = frozenset({"causal"})
    kinds: frozenset[Kind] = frozenset({"classify"})
    several = False
    Config = ClozeConfig
    parameters = SEARCHED
    default_share = 1 / 8

    def skip(self, context: Context) -> str | None:
        if (why := unaskable(context) or nothing_to_learn(self.name, context)) is not None:
            return why
        try:
            _as_asked(context, ClozeConfig())
        except PromptError as error:
            return str(error)
        return None

    def default(self, context: Context) -> Any:
        return super().default(_as_asked(context, ClozeConfig()))

    def cost(self, context: Context, config: Any) -> Cost:
        return super().cost(_as_asked(context, config), config)

    def bench(self, context: Context, config: Any, reserved: int) -> LabelBench:
        return _AskingBench(context, config)

    def reads(self, config: Any) -> object:
        return (config.template, config.lead)

    def stack(self, context: Context, configs: Sequence[ClozeConfig], model: nn.Module) -> LoraStack:
        return Lora().stack(context, configs, model)

    def finished(
        self, context: Context, config: ClozeConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        return Lora().finished(context, config, tensors)


class _AskingBench(LabelBench):
    """Rows as prompts, and a head on what the base has at their last token."""

    def __init__(self, context: Context, config: ClozeConfig) -> None:
        self._prompt = prompt_of(context, config)
        super().__init__(context)

    @property
    def prompt(self) -> Prompt | None:
        return self._prompt

    def _rows(self, examples: Sequence[Example], name: str) -> Rows:
        assert isinstance(self.base, Causal)
        tokens = prompt_tokens(self.base, self._prompt, examples, self.context.task.truncation)
        return Rows(tokens, self.context.targets(examples))

    def working(self, dtype: torch.dtype) -> Encoder:
        base = super().working(dtype)
        last = copy.copy(base)
        last.info = dataclasses.replace(base.info, pooling="last", normalize=False)
        return last

    def unit_length(self, config: TrainedConfig) -> bool:
        return False

    def head(self, config: TrainedConfig) -> HeadStart:
        labels = len(self.context.labels)
        if config.head_init == "zeros":
            return HeadStart(labels=labels)
        base = self.context.base
        assert isinstance(base, Causal)
        # a word may begin otherwise after a text than alone
        lead = self._prompt.before_answer
        answers = [lead + self._prompt.answer(self._prompt.words[label]) for label in self.context.labels]
        before, *after = base.text_ids([lead, *answers])
        first = [ids[min(common_start(before, ids), len(ids) - 1)] for ids in after]
        weight_LH, bias_L = base.output_rows(first)
        return HeadStart(labels=labels, weight_LH=weight_LH, bias_L=bias_L)


def _as_asked(context: Context, config: ClozeConfig) -> Context:
    """The context with as many tokens as there are where rows are prompts."""
    base, train = context.base, context.fold.train
    if not isinstance(base, Causal) or not train:
        return context
    few = train[:SAMPLED]
    prompts = prompt_tokens(base, prompt_of(context, config), few, context.task.truncation).tokens
    more = (prompts - base.encode([example.texts for example in few], context.task.truncation).tokens) / len(few)
    return dataclasses.replace(
        context,
        train_tokens=round(context.train_tokens + more * len(train)),
        race_tokens=round(context.race_tokens + more * len(context.fold.race)),
    )
