"""Train a base that is asked for each label's word, from the words' own probabilities on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from tunewise.adapters.lora import LoraStack
from tunewise.adapters.stack import Form, NotStackable
from tunewise.errors import ConfigError, PromptError
from tunewise.methods.asking import SAMPLED, PromptConfig, no_head, prompt_of, unaskable
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real, Space
from tunewise.methods.bench import Bench, Finished, LabelBench, nothing_to_learn
from tunewise.methods.few_shot import drawn
from tunewise.methods.lora import Lora, LoraConfig
from tunewise.methods.stacked import StackedMethod
from tunewise.methods.top_layers import with_kept_states
from tunewise.methods.trained_config import TrainedConfig
from tunewise.methods.training_cost import numbers_of, trained_cost
from tunewise.methods.verbalizer import found_words, read_rows
from tunewise.models.asked import Asked, common_start
from tunewise.models.encoder import Encoder
from tunewise.models.masked import Masked
from tunewise.models.seq2seq import Seq2Seq
from tunewise.predictors.base import Predictor
from tunewise.predictors.prompted import prompt_tokens
from tunewise.prompts.labels import LabelWords
from tunewise.prompts.prompt import Demonstration, Prompt, shown_fields
from tunewise.training.frozen import LowerBlocks
from tunewise.training.objective import Settings
from tunewise.training.population import WORK_FULL, HeadStart, Population
from tunewise.training.precision import working_dtype
from tunewise.training.rows import Rows
from tunewise.training.whole import FullPopulation
from tunewise.types import Cost, Example, Kind

FULL_RATE = 0.1
"""Of the rate that suits low-rank updates, what suits all weights (Schulman et al. 2025, "LoRA Without Regret")."""


@dataclass(frozen=True, kw_only=True)
class ClozeConfig(LoraConfig, PromptConfig):
    """How the base is asked, and how it is trained to answer."""

    rung: ClassVar[str] = "cloze"

    weights: Literal["lora", "full"] = "lora"
    """What is trained besides the head: low-rank updates, or every weight at a tenth of `learning_rate`."""
    words: Literal["given", "searched"] = "given"
    """What stands for the labels: the task's words, or what the base itself would say of their rows."""
    demonstrations: int = 0
    """Rows of each label that are shown with their answer, 0 or 1 (Gao et al. 2021)."""
    head_init: Literal["words", "zeros"] = "words"  # type: ignore[assignment]
    """Where the head starts: at what the base has for each label's words, or at zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"head_init": ("words", "zeros"), "weights": ("lora", "full"), "words": ("given", "searched")}
        for name, (one, other) in choices.items():
            if getattr(self, name) not in (one, other):
                raise ConfigError(f"cloze: `{name}` is '{one}' or '{other}', got {getattr(self, name)!r}.")
        if self.demonstrations not in (0, 1):
            raise ConfigError(f"cloze: `demonstrations` is 0 or 1 of each label, got {self.demonstrations}.")

    @property
    def settings(self) -> Settings:
        own = super().settings
        return own if self.weights == "lora" else dataclasses.replace(own, learning_rate=FULL_RATE * own.learning_rate)


SEARCHED: Parameters = {
    "learning_rate": Real(1e-4, 5e-3, log=True),
    "dropout": Choice((0.0, 0.1)),
    "batch_size": Choice((32, 16)),
    "weights": Choice(("lora", "full")),
    "words": Choice(("given", "searched")),
    "demonstrations": Choice((0, 1)),
}


class Cloze(StackedMethod):
    r"""Prompt-based fine-tuning (Schick and Schütze 2021, arXiv 2001.07676; Gao et al. 2021, arXiv 2012.15723).

    $p(l|x) \propto \exp(w_l \cdot h(\mathrm{prompt}(x)))$ with $h$ what the base reads the vocabulary off, where the
    answer stands, and $w_l$, at the start, the row of the vocabulary for the label's word: training begins at what the
    base already knows of the labels. Of words of several tokens a base that writes has the first token's row, and one
    that fills gaps, at its one mask, the mean over the tokens; labels are vectors from there on, as in Hambardzumyan et
    al. 2021 (arXiv 2101.00121). $h$ is trained with $w$: by low-rank updates of the blocks, or every weight of it.
    """

    name = "cloze"
    families = frozenset({"causal", "masked", "seq2seq"})
    kinds: frozenset[Kind] = frozenset({"classify"})
    several = False
    Config = ClozeConfig
    parameters = SEARCHED
    default_share = 1 / 8

    def skip(self, context: Context) -> str | None:
        if not isinstance(context.base, Asked):
            return f"cloze: {no_head(context.base)}"
        if (why := unaskable(context) or nothing_to_learn(self.name, context)) is not None:
            return why
        try:
            _as_asked(context, ClozeConfig())
            prompt = prompt_of(context, ClozeConfig())
            LabelWords(prompt.words).notes(lambda words: _answer_tokens(_base(context), prompt, [words])[0])
        except PromptError as error:
            return str(error)
        return None

    def default(self, context: Context) -> Any:
        return super().default(_as_asked(context, ClozeConfig()))

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[Any]:
        # all weights have no updates from which something could be dropped
        proposed = [
            config if config.weights == "lora" else dataclasses.replace(config, dropout=0.0)
            for config in super().propose(context, space, rng, n)
        ]
        asked = _as_asked(context, ClozeConfig())
        usual = asked.train_tokens / max(1, len(context.fold.train))
        if (len(context.labels) + 1) * usual <= context.base.info.max_tokens:
            return proposed
        return [dataclasses.replace(config, demonstrations=0) for config in proposed]

    def cost(self, context: Context, config: Any) -> Cost:
        asked = _as_asked(context, config)
        whole = super().cost(asked, config) if config.weights == "lora" else _cost_of_all(asked, config)
        if config.words == "given":
            return whole
        plain = _as_asked(context, dataclasses.replace(config, demonstrations=0))
        share = len(_searched_rows(context)) / max(1, len(context.fold.train))
        work = whole.work + round(share * plain.train_tokens)
        return dataclasses.replace(whole, work=work, seconds=work * context.seconds_per_work)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        return super().open(dataclasses.replace(context, base=_base(context).at_answer()), configs)

    def bench(self, context: Context, config: Any, reserved: int) -> LabelBench:
        return _AskingBench(context, config)

    def reads(self, config: Any) -> object:
        return (config.template, config.lead, config.words, config.demonstrations)

    def stack(self, context: Context, configs: Sequence[ClozeConfig], model: nn.Module) -> LoraStack:
        return Lora().stack(context, configs, model)

    def population(
        self, context: Context, bench: Bench, base: Encoder, configs: Sequence[Any], lower: LowerBlocks | None
    ) -> Population:
        if configs[0].weights == "lora":
            return super().population(context, bench, base, configs, lower)
        if len(configs) > 1:
            raise NotStackable("every weight is trained, so each candidate needs a base of its own")
        return FullPopulation(
            context.base,
            bench.head(configs[0]),
            used_tokens=np.unique(np.concatenate([*bench.train.tokens.ids, *bench.race.tokens.ids])),
            dtype=working_dtype(context.task.dtype, context.base),
            seed=context.seed,
            lower=lower,
        )

    def finished(
        self, context: Context, config: ClozeConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        return Lora().finished(context, config, tensors)


class _AskingBench(LabelBench):
    """Rows as prompts, and a head on what the base has where their answers stand."""

    def __init__(self, context: Context, config: ClozeConfig) -> None:
        self._prompt = prompt_of(context, config)
        if config.words == "searched":
            self._search(context)
        self._drawn = _drawn(context, self._prompt) if config.demonstrations else ()
        self._prompt = dataclasses.replace(self._prompt, demonstrations=tuple(each[0] for each in self._drawn))
        words = [self._prompt.words[label] for label in context.labels]
        self._tokens = _answer_tokens(_base(context), self._prompt, words)
        super().__init__(context)

    def _search(self, context: Context) -> None:
        """Words of the base's own in the place of those given."""
        rows = [context.fold.train[i] for i in _searched_rows(context)]
        tokens = prompt_tokens(_base(context), self._prompt, rows, context.task.truncation)
        words = found_words(
            _base(context),
            tokens,
            context.target_indices(rows),
            self._prompt.words,
            lambda words: _answer_tokens(_base(context), self._prompt, words),
        )
        self._found = words != dict(self._prompt.words)
        self._prompt, self.work = dataclasses.replace(self._prompt, words=words), tokens.tokens

    @property
    def prompt(self) -> Prompt | None:
        return self._prompt

    @property
    def notes(self) -> tuple[str, ...]:
        labels, notes = self.context.labels, []
        if self.work:
            said = ", ".join(f"'{self._prompt.words[label]}' for {label}" for label in labels if self._found)
            notes.append(f"cloze: words found on {self.work:,} tokens of train: {said or 'none, so those given stay'}")
        long = sum(len(ids) > 1 for ids in self._tokens)
        if long:
            where = "their mean" if isinstance(self.base, Masked) else "the first"
            notes.append(f"cloze: words of several tokens, for {long} of {len(labels)} labels, start at {where}")
        return tuple(notes)

    def _rows(self, examples: Sequence[Example], name: str) -> Rows:
        # a row of train is not shown to itself with its answer
        shown = [self._others(row) for row in examples] if name == "train" and self._drawn else None
        tokens = prompt_tokens(_base(self.context), self._prompt, examples, self.context.task.truncation, shown)
        return Rows(tokens, self.context.targets(examples))

    def _others(self, row: Example) -> list[Demonstration]:
        """What is shown with a row of train: of each label the first that was drawn and is not this row."""
        own = shown_fields(row)
        found = [next((each for each in drawn if each.fields != own), None) for drawn in self._drawn]
        return [each for each in found if each is not None]

    def unit_length(self, config: TrainedConfig) -> bool:
        return False

    def head(self, config: TrainedConfig) -> HeadStart:
        labels = len(self.context.labels)
        if config.head_init == "zeros":
            return HeadStart(labels=labels)
        base = _base(self.context)
        rows = [base.output_rows(ids if isinstance(base, Masked) else ids[:1]) for ids in self._tokens]
        weight_LH = np.stack([weight_SH.mean(axis=0) for weight_SH, _ in rows])
        return HeadStart(labels=labels, weight_LH=weight_LH, bias_L=np.array([bias_S.mean() for _, bias_S in rows]))

    def predictor(
        self, config: TrainedConfig, tensors: Mapping[str, Tensor], finished: Finished | None = None
    ) -> Predictor:
        assert isinstance(config, ClozeConfig)
        return super().predictor(config, tensors, finished if config.weights == "lora" else None)


def _base(context: Context) -> Asked:
    assert isinstance(context.base, Asked)
    return context.base


def _answer_tokens(base: Asked, prompt: Prompt, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each of these words as the answer; one of a prompt that joins them with its end, at least one."""
    answers = [prompt.answer(each) for each in words]
    if isinstance(base, Masked):
        return base.text_ids(answers)
    if isinstance(base, Seq2Seq):
        return base.text_ids([answer.lstrip(" ") for answer in answers])
    # a word may begin otherwise after a text than alone
    start = prompt.before_answer
    before, *after = base.text_ids([start, *(start + answer for answer in answers)])
    return [ids[min(common_start(before, ids), len(ids) - 1) :] for ids in after]


def _searched_rows(context: Context) -> list[int]:
    train = context.fold.train
    return read_rows(context.target_indices(train), [row.digest for row in train])


def _drawn(context: Context, prompt: Prompt) -> tuple[tuple[Demonstration, ...], ...]:
    """Of each label that train has, a row to be shown, and one to be shown to that."""
    rows = drawn(context.fold.train, 2 * len(context.labels), seed=context.task.seed, draw=0)
    of_label = {label: [row for row in rows if row.target == label][:2] for label in context.labels}
    return tuple(
        tuple(Demonstration(shown_fields(row), prompt.words[label]) for row in own)
        for label, own in of_label.items()
        if own
    )


def _cost_of_all(context: Context, config: ClozeConfig) -> Cost:
    """Of a candidate that trains every weight, or those of the top blocks."""
    numbers, top = numbers_of(context), config.top_layers
    if top is not None:
        upper = LowerBlocks(context.base, top).upper(context.base.model)
        numbers = sum(own.numel() for _, block in upper for own in block.parameters())
    whole = trained_cost(
        context,
        config,
        work_per_token=WORK_FULL,
        adapted_numbers=numbers,
        copied_numbers=2 * numbers,
        kept_layers=None if top is None else float(top),
    )
    return with_kept_states(whole, context, config)


def _as_asked(context: Context, config: ClozeConfig) -> Context:
    """The context with the vectors that answers are read off, and the tokens that rows have as prompts."""
    base, train = _base(context).at_answer(), context.fold.train
    if not train:
        return dataclasses.replace(context, base=base)
    few, policy = train[:SAMPLED], context.task.truncation
    prompt = prompt_of(context, config)
    if config.demonstrations:
        prompt = dataclasses.replace(prompt, demonstrations=tuple(each[0] for each in _drawn(context, prompt)))
    prompts = prompt_tokens(base, prompt, few, policy).tokens
    more = (prompts - base.encode([example.texts for example in few], policy).tokens) / len(few)
    return dataclasses.replace(
        context,
        base=base,
        train_tokens=round(context.train_tokens + more * len(train)),
        race_tokens=round(context.race_tokens + more * len(context.fold.race)),
    )
