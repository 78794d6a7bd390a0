"""What the rungs have in common that ask the base, by a prompt, and train nothing."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from tunewise.config import PromptTask, Task
from tunewise.errors import ConfigError, ModelError, PromptError
from tunewise.methods.answering import AnsweringBracket, parts_of
from tunewise.methods.base import Bracket, Choice, Context, Parameters
from tunewise.models.answers import scorer_of
from tunewise.models.asked import Asked
from tunewise.models.causal import Causal
from tunewise.models.encoder import Encoder
from tunewise.models.generate import Decoding
from tunewise.predictors.base import Predictor
from tunewise.predictors.neighbours import Neighbours
from tunewise.predictors.prompted import Calibration, Length, PromptedPredictor
from tunewise.predictors.written import WrittenPredictor
from tunewise.predictors.written_label import WrittenLabelPredictor
from tunewise.prompts.chat import ChatTemplate, control_tokens
from tunewise.prompts.gap import FIELD as MASK_FIELD
from tunewise.prompts.gap import GapPrompt
from tunewise.prompts.labels import LabelWords
from tunewise.prompts.prompt import BETWEEN, Demonstration, Prompt, shown_fields
from tunewise.prompts.sourced import named_template, source_of_labels, source_of_texts
from tunewise.prompts.template import Template
from tunewise.prompts.turns import Turns
from tunewise.types import Cost, Example

SAMPLED_TARGETS = 500
LONG_TARGET = 0.95
"""Share of the targets of train that an answer may be as long as."""
NEED_SCORES = ("log_loss",)
"""Metrics that a label without a probability cannot be measured by."""
FURTHER = 4
"""Tokens that a written label may have beyond the longest: a full stop, or a word too many."""
LEAD = "\nAnswer:"
BREAKS = ("\n", "\n\n")
"""Where an answer ends, unless targets hold it."""
WINDOW_SHARE = 0.6
"""Of the base's window that demonstrations may take."""
CHECKED = 200
"""Rows that a PromptSource template is rendered for before anything is tried."""
TRIED = 3
"""Rows by which it is seen whether a prompt can be made at all."""
NOTES = 3
"""Sentences on labels that begin alike that are said."""
SAMPLED = 16
"""Rows by whose prompts the tokens of all are estimated."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a row is put to the base."""

    template: str | None = None
    """Jinja over the fields of a row; None: as the task says."""
    lead: str | None = None
    """Stands between a row and its answer."""


@dataclass(frozen=True, kw_only=True)
class AskingConfig(PromptConfig):
    """How a label's words are asked for and scored."""

    rung: ClassVar[str]

    answer: Literal["scored", "written", "constrained"] = "scored"
    """Of labels: the likeliest words are the answer (`scored`); or the words that are written, of which those that are
    no label's count as wrong (`written`), or that nothing else could be written than (`constrained`)."""
    length: Length = "sum"
    calibration: Calibration = "none"

    def __post_init__(self) -> None:
        if self.answer not in ("scored", "written", "constrained"):
            raise ConfigError(f"{self.rung}: `answer` is 'scored', 'written' or 'constrained', got {self.answer!r}.")
        for name, plain in (("length", "sum"), ("calibration", "none")):
            if self.answer != "scored" and getattr(self, name) != plain:
                raise ConfigError(
                    f"{self.rung}: `{name}` is about scores, and with `answer: {self.answer}` there are none. Leave it "
                    f"at {plain!r}."
                )
        if self.length not in ("sum", "token"):
            raise ConfigError(f"{self.rung}: `length` is 'sum' or 'token', got {self.length!r}.")
        if self.calibration not in ("none", "contextual", "domain"):
            raise ConfigError(
                f"{self.rung}: `calibration` is 'none', 'contextual' or 'domain', got {self.calibration!r}."
            )


ASKED: Parameters = {
    "answer": Choice(("scored", "written", "constrained")),
    "length": Choice(("sum", "token")),
    "calibration": Choice(("none", "contextual", "domain")),
}


C = TypeVar("C", bound=AskingConfig)


AskedPredictor = PromptedPredictor | WrittenPredictor


def asking(
    context: Context,
    config: AskingConfig,
    shown: Sequence[Demonstration] = (),
    neighbours: Neighbours | None = None,
) -> AskedPredictor:
    """What answers by this config's prompt, with these rows shown in it, or with each row's neighbours.

    Raises:
        PromptError: a label has no words, the template cannot be read, or the base cannot read what stands between
            rows that are shown.
        ModelError: answers as long as this leave no room for a prompt.
    """
    if (shown or neighbours) and isinstance(context.base, Asked) and not context.base.reads(BETWEEN):
        raise PromptError(
            f"asking: {context.base.info.name} has no token for the empty line that stands between rows that are "
            "shown, so it is shown none."
        )
    if context.task.kind == "generate":
        return WrittenPredictor(
            base=context.base,
            policy=context.task.truncation,
            prompt=prompt_of(context, config, shown),
            decoding=decoding_of(context),
            neighbours=neighbours,
            features=context.features,
        )
    if config.answer != "scored":
        said = prompt_of(context, config, shown)
        return WrittenLabelPredictor(
            base=context.base,
            labels=context.labels,
            policy=context.task.truncation,
            prompt=said,
            decoding=_label_decoding(context.base, said, constrained=config.answer == "constrained"),
            neighbours=neighbours,
            features=context.features,
        )
    return PromptedPredictor(
        base=context.base,
        labels=context.labels,
        policy=context.task.truncation,
        prompt=prompt_of(context, config, shown),
        length=config.length,
        calibration=config.calibration,
        neighbours=neighbours,
        features=context.features,
    )


def _label_decoding(base: Encoder, prompt: Prompt, *, constrained: bool) -> Decoding:
    """Greedily, to the end of a line; with some room for words that are no label's, or held to those that are."""
    if not isinstance(base, Asked) or not base.writes:
        raise ModelError(
            f"written: {base.info.name} writes nothing. Use a causal or seq2seq base, or `answer: scored`."
        )
    words = tuple(dict.fromkeys(prompt.words.values()))
    longest = max(len(ids) for ids in base.text_ids([prompt.answer(each) for each in words]))
    if constrained:
        return Decoding(max_new_tokens=longest + 1, choices=words)
    return Decoding(max_new_tokens=longest + FURTHER, stop=("\n",))


def could_write(context: Context) -> bool:
    """Whether labels may be written here: by a base that writes, where no probabilities are asked for."""
    return (
        context.task.kind == "classify"
        and isinstance(context.base, Asked)
        and context.base.writes
        and context.task.metric not in NEED_SCORES
    )


def demonstrations(context: Context, rows: Sequence[Example]) -> tuple[Demonstration, ...]:
    """Rows as they are shown: with their target, or the words of their label."""
    said = {} if context.task.kind == "generate" else words_of(context)
    return tuple(Demonstration(shown_fields(row), said.get(str(row.target), str(row.target))) for row in rows)


def most_shown(context: Context) -> int:
    """How many rows of usual length the base's window has room for."""
    usual = max(1.0, context.train_tokens / max(1, len(context.fold.train)))
    return max(1, int(WINDOW_SHARE * context.base.info.max_tokens / (usual + 4)))


def decoding_of(context: Context) -> Decoding:
    """As the task says; else answers are as long as nearly all targets, to the first break that no target has."""
    asked = context.task.decoding
    targets = [str(example.target) for example in context.fold.train]
    constrained = bool(asked.choices or asked.regex) or asked.json_schema is not None
    stop = asked.stop or ()
    if asked.stop is None and not constrained:
        stop = tuple([mark for mark in BREAKS if not any(mark in target for target in targets)][:1])
    most = asked.max_new_tokens
    if most is None:
        assert isinstance(context.base, Asked)
        known = asked.choices or targets[:SAMPLED_TARGETS]
        lengths = [len(ids) for ids in context.base.text_ids(known)]
        # what has to be complete may be longer than what was seen
        usual = 2 * max(lengths) if constrained else int(np.quantile(lengths, LONG_TARGET))
        most = min(usual + 2, max(1, context.base.info.max_tokens // 2))
    return Decoding(
        max_new_tokens=most,
        temperature=asked.temperature,
        top_p=asked.top_p,
        beams=asked.beams,
        stop=stop,
        choices=asked.choices,
        regex=asked.regex,
        json_schema=None if asked.json_schema is None else json.dumps(asked.json_schema),
        seed=context.task.seed,
    )


def prompt_of(context: Context, config: PromptConfig, shown: Sequence[Demonstration] = ()) -> Prompt:
    """What is said to the base about every row: what the task says, and where the rung has something else, that.

    Raises:
        PromptError: as `task_prompt`.
    """
    said = task_prompt(context.task, context.labels, context.fold.train)
    turns = turns_for(context.task, context.base)
    if turns is not None:
        said = dataclasses.replace(said, turns=turns, lead=context.task.prompt.lead or "")
    said = dataclasses.replace(said, control_tokens=control_tokens(context.base.tokenizer))
    if config.template is not None:
        said = dataclasses.replace(said, template=config.template, source=None)
    lead = said.lead if config.lead is None else config.lead
    if lead == LEAD and isinstance(context.base, Asked) and not context.base.reads(lead):
        lead = ""  # a base made for one task may know no other words than those of its texts
    return dataclasses.replace(said, lead=lead, demonstrations=tuple(shown))


def task_prompt(task: Task, labels: Sequence[str], rows: Sequence[Example]) -> Prompt:
    """What the task says about every row; `rows`: some of train, to try a PromptSource template on.

    Raises:
        PromptError: words are given for a label that does not exist, or two labels have the same; or a PromptSource
            template cannot be read, or does not fit the rows.
    """
    asked, instruction = task.prompt, task.instruction or ""
    words = {} if task.kind == "generate" else LabelWords.of(labels, task.words).words
    if asked.file is None:
        lead = LEAD if asked.lead is None else asked.lead
        return Prompt(instruction=instruction, template=asked.template, lead=lead, words=words)
    template = named_template(Path(asked.file), asked.name)
    target = task.target if isinstance(task.target, str) else None
    few = rows[:TRIED]
    if task.kind == "generate":
        wanted = [str(row.target) for row in few]
        source = source_of_texts(template, few, wanted, target=target, seed=task.seed)
    else:
        source, said = source_of_labels(template, labels, few, target=target, answers=asked.answers, seed=task.seed)
        words = LabelWords.of(labels, said).words
    return Prompt(instruction=instruction, source=source, lead=asked.lead or "", words=words)


def label_notes(task: Task, labels: Sequence[str], rows: Sequence[Example], base: Encoder) -> list[str]:
    """What there is to say about how labels' words begin as tokens, not all of it where they are many.

    Raises:
        PromptError: as `task_prompt`; or the tokenizer makes nothing of a label's words, or the same of two.
    """
    if task.kind == "generate" or not isinstance(base, Asked):
        return []
    said = dataclasses.replace(task_prompt(task, labels, rows), turns=turns_for(task, base))
    notes = LabelWords(said.words).notes(lambda words: base.text_ids([said.answer(words)])[0])
    more = [f"So do more of them: {len(notes) - NOTES} notes are left out."] if len(notes) > NOTES else []
    return [*notes[:NOTES], *more]


def turns_for(task: Task, base: Encoder) -> Turns | None:
    """What the base's chat template writes around turns; None where prompts are plain texts.

    Raises:
        PromptError: the task wants a chat, and the base has no chat template, or one that prompts cannot be made by.
    """
    wanted = task.prompt.format
    if wanted == "plain" or (wanted == "auto" and why_plain(base) is not None):
        return None
    return _turns_of(base)


def rendering_note(task: Task, base: Encoder) -> str | None:
    """Whether prompts for this base are written by its chat template, in a sentence; None where it has none.

    Raises:
        PromptError: as `turns_for`.
    """
    if not isinstance(base, Asked) or not base.writes or task.prompt.format == "plain":
        return None
    if turns_for(task, base) is not None:
        return (
            f"{base.info.name}: prompts are turns, by its chat template; `prompt: {{format: plain}}` makes them texts."
        )
    if getattr(base.tokenizer, "chat_template", None):
        return f"{why_plain(base)} Prompts are plain texts here."
    return None


def why_plain(base: Encoder) -> str | None:
    """Why prompts for a base are not written by a chat template where nothing is said about it; None: they are."""
    try:
        _turns_of(base)
    except PromptError as error:
        return str(error)
    return None


def _turns_of(base: Encoder) -> Turns:
    found = vars(base).get("_turns")
    if found is None:
        if not isinstance(base, Causal):
            raise PromptError(f"prompt: {base.info.name} does not converse. Use `format: plain`.")
        found = Turns.of(ChatTemplate.from_tokenizer(base.tokenizer, name=base.info.name))
        base._turns = found  # type: ignore[attr-defined]
    assert isinstance(found, Turns)
    return found


def check_prompt(task: Task, labels: Sequence[str], rows: Sequence[Example], *, several: bool) -> Prompt | None:
    """The task's prompt where it says something of its own, tried on some rows; None where it says nothing.

    Raises:
        PromptError: it cannot be read, or a row lacks a field that it reads.
    """
    if not _has_own_prompt(task) or several:
        return None
    said = task_prompt(task, labels, rows)
    if said.template is not None:
        template = Template(said.template, name="prompt")
        template.check([*(rows[0].fields if rows else ()), MASK_FIELD, "conversation"])
        asked = GapPrompt.of(said) if MASK_FIELD in template.fields else said
        asked.parts(rows[:TRIED])
    else:
        said.parts(rows[:CHECKED])
    return said


def unused_prompt(task: Task, bases: Iterable[Encoder], *, several: bool) -> str | None:
    """Why the task's own prompt is never said, in a sentence; None where it is, or where there is none."""
    if not _has_own_prompt(task):
        return None
    if several:
        return "bases are asked for one label per text, and here texts may have several: `prompt` changes nothing."
    if not any(isinstance(base, Asked) for base in bases):
        return "none of these bases is asked by a prompt, so that `prompt` changes nothing."
    return None


def _has_own_prompt(task: Task) -> bool:
    return task.prompt not in (PromptTask(), PromptTask(format=task.prompt.format))


def words_of(context: Context) -> Mapping[str, str]:
    """What is said for each label."""
    return task_prompt(context.task, context.labels, context.fold.train).words


def unaskable(context: Context, make: Callable[[], AskedPredictor] | None = None) -> str | None:
    """Why the base cannot be asked about these rows, or None; `make` gives what would ask, which is tried on a few."""
    if not isinstance(context.base, Asked):
        return None
    if context.task.kind == "generate":
        why = None if context.base.writes else f"{context.base.info.name} scores words and writes no texts"
    else:
        why = _unaskable_labels(context)
    if why is None and make is not None:
        try:
            make().tokens(context.fold.train[:TRIED])
        except (PromptError, ModelError) as error:
            return str(error)
    return why


def no_head(base: Encoder) -> str:
    """Of a masked base that came without its MLM head, in a sentence."""
    return f"the files of {base.info.name} hold no weights of its head for masked words, and a random one knows nothing"


def _unaskable_labels(context: Context) -> str | None:
    if context.several:
        return "asking for labels is built for one label per text, and here a text may have several"
    if all(word.isdigit() for word in words_of(context).values()):
        return (
            "the labels are numbers, which say nothing about their meaning; "
            "give each label `words` in the task to climb this rung."
        )
    return None


def possible(configs: Sequence[C], make: Callable[[C], AskedPredictor]) -> list[C]:
    """Those that something can be asked by: what stands between row and answer may be too little to calibrate by."""
    found = []
    for config in configs:
        with contextlib.suppress(PromptError):
            make(config)
            found.append(config)
    return found


def asking_cost(context: Context, predictor: AskedPredictor) -> Cost:
    """Of answering the race rows of one fold, in parts: what the prompts of a part share is computed once."""
    tokens, parts, shared = _reading(context, predictor)
    work = tokens + (parts - 1) * shared
    return Cost(work=work, seconds=work * context.seconds_per_work, memory_bytes=0, trainable_parameters=0)


def _reading(context: Context, predictor: AskedPredictor) -> tuple[int, int, int]:
    """Tokens of answering the race rows at once, in how many parts they are answered, tokens that all rows share."""
    race = context.fold.race
    few, half = race[: 2 * SAMPLED], race[:SAMPLED]
    tokens = predictor.tokens(few)
    if len(race) <= len(few):
        return tokens, 1, 0
    of_row = (tokens - predictor.tokens(half)) / SAMPLED
    shared = max(0, round(tokens - len(few) * of_row))
    tokens += round((len(race) - len(few)) * of_row)
    return tokens, parts_of(len(race), tokens, shared), shared


def ask(context: Context, configs: Sequence[Any], make: Callable[[Any], AskedPredictor]) -> Bracket:
    """A bracket of candidates that answer by their prompts."""

    def one(member: int) -> tuple[Predictor, int]:
        predictor = make(configs[member])
        return predictor, asking_cost(context, predictor).work

    if not context.fold.race:
        return AnsweringBracket(context, one, len(configs))
    first = make(configs[0])
    first.tokens(context.fold.race)
    found = first.prompt.control_tokens_in(context.fold.race)
    broken = f"{found:,} control tokens in what rows say were broken up by a space." if found else None
    said = [first.given.said(len(context.fold.race)), _all_left_out(first, len(context.fold.race))]
    said += [scorer_of(_asked(context)).note, broken]
    sentences = tuple(f"asking: {sentence}" for sentence in said if sentence is not None)
    _, parts, _ = _reading(context, first)
    return AnsweringBracket(context, one, len(configs), said=sentences, parts=parts)


def _all_left_out(asked: AskedPredictor, prompts: int) -> str | None:
    """What there is to say where no prompt had room for a row that was to be shown."""
    each = len(asked.prompt.demonstrations) if asked.neighbours is None else asked.neighbours.count
    wanted = prompts * each
    if not wanted or asked.given.demonstrations < wanted:
        return None
    return "no prompt had room for a row that is shown, so what is measured is asking without any."


def _asked(context: Context) -> Asked:
    assert isinstance(context.base, Asked)
    return context.base
