"""Answer by asking the base: each label's words are scored after the prompt, and the likeliest label is the answer.

Axes: E examples, L labels.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np

from tunewise.config import Truncation
from tunewise.errors import BundleError, ModelError, PromptError
from tunewise.models.answers import scorer_of
from tunewise.models.asked import Asked
from tunewise.models.causal import Causal
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder
from tunewise.models.masked import Masked
from tunewise.models.prefix_tree import Request
from tunewise.models.tokens import Tokens
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_settings, write_settings
from tunewise.predictors.head import vectors
from tunewise.predictors.neighbours import Neighbours, texts_of
from tunewise.predictors.several import Thresholds, from_logits
from tunewise.prompts.conversed import ChatPrompt
from tunewise.prompts.gap import GapPrompt, names_place
from tunewise.prompts.labels import LabelWords
from tunewise.prompts.prompt import Demonstration, Part, Prompt, joined
from tunewise.prompts.window import Given, fitted
from tunewise.types import Example, Prediction

Length = Literal["sum", "token"]
"""What a label's log-probability is divided by: nothing, or the number of its tokens."""
Calibration = Literal["none", "contextual", "domain"]
"""What is subtracted from it: nothing; what the label has after a row that says nothing (Zhao et al. 2021, arXiv
2102.09690); or after what leads to the answer alone (domain PMI, Holtzman et al. 2021, arXiv 2104.08315)."""

SETTINGS = "prompted.json"
SAYS_NOTHING = ("N/A", "[MASK]", "")


def said_to(base: Asked, prompt: Prompt) -> Prompt:
    """The prompt in the form that this base answers: with a gap, where it fills gaps.

    Raises:
        PromptError: what leads to the answer says where it stands, and the base writes it at the end.
    """
    if isinstance(base, Masked):
        return GapPrompt.of(prompt)
    if names_place(prompt.lead):
        raise PromptError(
            f"prompt: `lead` says where the answer stands, {prompt.lead!r}, and {base.info.name} writes answers after "
            "its prompt. Leave {{ mask }} out, or use a base that fills gaps (BERT and its kin)."
        )
    return prompt if prompt.turns is None else ChatPrompt.of(prompt)


def reading(base: Asked, prompt: Prompt) -> Asked:
    """The base as it reads this prompt.

    Raises:
        PromptError: the prompt is a conversation, and the base does not converse.
    """
    if prompt.turns is None:
        return base
    if not isinstance(base, Causal):
        raise PromptError(f"prompt: {base.info.name} does not converse. Use `format: plain`.")
    return base.in_chat(prompt.turns.end)


def check_turns(prompt: Prompt, base: Encoder, name: str) -> None:
    """Raises BundleError where the prompt was made by another chat template than the base has."""
    template = getattr(base.tokenizer, "chat_template", None)
    template = template.get("default") if isinstance(template, Mapping) else template
    if prompt.turns is not None and template != prompt.turns.source:
        raise BundleError(
            f"{name}: its prompts were written by a chat template that {base.info.name} does not have any more. Use "
            "the tokenizer that it was measured with."
        )


def fitted_prompts(
    base: Asked,
    prompt: Prompt,
    examples: Sequence[Example],
    policy: Truncation,
    room: int,
    shown: Sequence[Sequence[Demonstration]] | None = None,
) -> tuple[list[tuple[Part, ...]], Given]:
    """The prompt of each row in at most `room` tokens, and what was given up for that.

    `shown`: what is shown before each row, in the place of what is shown before all.

    Raises:
        PromptError: a prompt does not fit even without demonstrations and row, or its template fails.
    """
    prompt = said_to(base, prompt)
    found, whole = prompt.parts(examples, shown), Given()
    for i, ids in enumerate(base.text_ids([joined(parts) for parts in found])):
        if len(ids) > room:
            shorter = _Shorter(base, prompt, examples[i], policy)
            found[i], given = fitted(
                found[i], room, lambda text: len(base.text_ids([text])[0]), shorter, row=examples[i].id
            )
            whole += given
    return found, whole


class _Shorter:
    """A row that gives way: its longest field by tokens, of a conversation the oldest turns before that.

    Fields that the prompt does not read stay as they are: nothing would be gained by them.
    """

    def __init__(self, base: Asked, prompt: Prompt, row: Example, policy: Truncation) -> None:
        self.base, self.prompt, self.row = base, dataclasses.replace(prompt, demonstrations=()), row
        self.whole = row
        self.keep: Literal["keep_start", "keep_end"] = "keep_end" if policy == "keep_end" else "keep_start"

    def __call__(self, tokens: int) -> str | None:
        """The row's part of the prompt with about so many tokens less; None where nothing is left to cut."""
        turns = [turn for turn in self.row.messages if turn.role != "system"]
        if len(turns) > 1:
            # up to the next turn of the user, so that what is left begins with one
            users = [i for i, turn in enumerate(self.row.messages) if turn.role == "user"]
            oldest = next(i for i, turn in enumerate(self.row.messages) if turn.role != "system")
            left = next((i for i in users if i > oldest), len(self.row.messages) - 1)
            self.row = dataclasses.replace(self.row, messages=(*self.row.messages[:oldest], *self.row.messages[left:]))
        elif not self._cut(tokens):
            return None
        (parts,) = self.prompt.parts([self.row], whole=[self.whole])
        return next(part.text for part in parts if part.kind == "input")

    def _cut(self, tokens: int) -> bool:
        turn = self.row.messages[-1] if self.row.messages else None
        reads = self.prompt.reads
        texts = (
            {"": turn.content} if turn else {k: v for k, v in self.row.fields.items() if reads is None or k in reads}
        )
        sizes = dict(zip(texts, map(len, self.base.text_ids(list(texts.values()))), strict=True))
        name = max(sizes, key=lambda field: sizes[field], default="")
        if not sizes.get(name):
            return False
        left = max(0, sizes[name] - tokens)
        cut = self.base.cut(texts[name], left, self.keep) if left else ""
        if turn:
            # a template may read the last turn by the name of the field that holds it
            fields = {k: cut if v == turn.content else v for k, v in self.row.fields.items()}
            messages = (*self.row.messages[:-1], dataclasses.replace(turn, content=cut))
            self.row = dataclasses.replace(self.row, fields=fields, messages=messages)
        else:
            self.row = dataclasses.replace(self.row, fields={**self.row.fields, name: cut})
        return True


def prompt_tokens(
    base: Asked,
    prompt: Prompt,
    examples: Sequence[Example],
    policy: Truncation,
    shown: Sequence[Sequence[Demonstration]] | None = None,
) -> Tokens:
    """What the base reads before it answers, one sequence a row; no longer than its limit.

    `shown`: what is shown with each row, in the place of what is shown with all.
    """
    base = reading(base, prompt)
    parts, given = fitted_prompts(base, prompt, examples, policy, base.room(0), shown)
    ids = base.prompt_ids([joined(each) for each in parts])
    return Tokens(ids=ids, types=None, row_S=np.arange(len(ids)), rows=len(ids), cut_tokens=given.input_tokens)


class Token(NamedTuple):
    """A token as the base reads it."""

    id: int
    piece: str
    scored: bool
    """Whether it belongs to the answer."""


def tokens_of(base: Asked, request: Request) -> list[Token]:
    """What is read and scored, token by token."""
    ids = [*request.context.tolist(), *request.continuation.tolist()]
    pieces = base.tokenizer.convert_ids_to_tokens(ids)
    return [
        Token(i, str(piece), place >= len(request.context))
        for place, (i, piece) in enumerate(zip(ids, pieces, strict=True))
    ]


class PromptedPredictor:
    r"""Softmax over labels of $\frac{1}{n_l} \log p(w_l | \mathrm{prompt}(x))$, less the label's prior."""

    kind = "prompted"

    def __init__(
        self,
        *,
        base: Encoder,
        labels: tuple[str, ...],
        policy: Truncation,
        prompt: Prompt,
        length: Length = "sum",
        calibration: Calibration = "none",
        neighbours: Neighbours | None = None,
        features: Features | None = None,
    ) -> None:
        """`prompt` must have words for every label.

        `neighbours` are shown in the place of what the prompt shows; `features` looks vectors up and is not saved.

        Raises:
            ModelError: the base does not write.
            PromptError: a label has no words, or words that the base cannot read or tell from another's, or each row
                needs a prior of its own.
        """
        self.base: Encoder | None = base
        if not isinstance(base, Asked):
            raise ModelError(
                f"prompted: {base.info.name} gives no probabilities of words. Use a causal or seq2seq base, or a "
                "masked one with its head for masked words."
            )
        missing = [label for label in labels if label not in prompt.words]
        if missing:
            raise PromptError(f"prompted: the prompt has no words for the label '{missing[0]}'. Give it some.")
        self._asked = base = reading(base, prompt)
        LabelWords(prompt.words).notes(lambda words: base.text_ids([prompt.answer(words)])[0])  # refuses what is none
        self.labels, self.policy, self.prompt = labels, policy, prompt
        self.length: Length = length
        self.calibration: Calibration = calibration
        self.neighbours, self.features = neighbours, features
        self.thresholds: Thresholds = None
        if calibration == "contextual" and neighbours is not None:
            raise PromptError(
                "prompted: `calibration: contextual` needs the same prompt for all rows, and each has other "
                "neighbours. Use 'none' or 'domain'."
            )
        leads = calibration != "domain" or said_to(base, prompt).lead_alone.strip() or len(base.prompt_ids([""])[0])
        if not leads:
            raise PromptError(
                f"prompted: `calibration: domain` needs something that leads to the answer, and {base.info.name} "
                "begins no text by itself. Use a `lead` or another calibration."
            )
        self.given = Given()
        """What was given up for the last rows that were asked about."""
        self._end = base.label_end if self._one_begins_another(base) else ""
        self._prior_L: np.ndarray | None = None

    def _one_begins_another(self, base: Asked) -> bool:
        """Whether a label's words are the beginning of another's: it must then be told where an answer ends."""
        words = [self.prompt.answer(self.prompt.words[label]) for label in self.labels]
        ids = sorted(map(tuple, base.text_ids(words)))
        return any(after[: len(before)] == before for before, after in itertools.pairwise(ids))

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if not examples:
            return []
        shown = shown_before(self, examples)
        fitted = self._fitted(examples, shown)
        scores_EL = self._scores([joined(parts) for parts in fitted])
        answers = from_logits(scores_EL - self._prior(examples[0]), self.labels, None)
        return with_evidence(answers, fitted, shown)

    def tokens(self, examples: Sequence[Example]) -> int:
        """Tokens that are computed for these rows: what they share is computed once, where the base allows it."""
        requests = [request for parts in self._prompts(examples) for request in self._requests(joined(parts))]
        return scorer_of(self._asked).tokens(requests)

    def laid_out(self, example: Example) -> tuple[str, list[Token]]:
        """The text that is read for a row with its right answer (the first label without one), and its tokens."""
        (parts,) = self._prompts([example])
        label = str(example.target) if example.target is not None else self.labels[0]
        request = self._requests(joined(parts))[self.labels.index(label)]
        text = said_to(self._asked, self.prompt).completed(joined(parts), self.prompt.words[label])
        return text + self._end, tokens_of(self._asked, request)

    def _prompts(self, examples: Sequence[Example]) -> list[tuple[Part, ...]]:
        return self._fitted(examples, shown_before(self, examples))

    def _fitted(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Demonstration]] | None
    ) -> list[tuple[Part, ...]]:
        base = self._asked
        longest = max(len(ids) for ids in base.text_ids(self._answers))
        found, self.given = fitted_prompts(base, self.prompt, examples, self.policy, base.room(longest), shown)
        return found

    @property
    def _answers(self) -> list[str]:
        return [self.prompt.answer(self.prompt.words[label]) + self._end for label in self.labels]

    def _requests(self, prompt: str) -> list[Request]:
        """One for each label."""
        return self._asked.requests(prompt, self._answers)

    def _scores(self, prompts: Sequence[str]) -> np.ndarray:
        """[E, L], divided by length where that is asked for."""
        requests = [request for prompt in prompts for request in self._requests(prompt)]
        found = scorer_of(self._asked).score(requests)
        divide = np.mean if self.length == "token" else np.sum
        return np.array([float(divide(each)) for each in found]).reshape(len(prompts), len(self.labels))

    def _prior(self, like: Example) -> np.ndarray:
        """What each label has without a row [L], computed once."""
        if self._prior_L is None:
            self._prior_L = self._prior_of(like)
        return self._prior_L

    def _prior_of(self, like: Example) -> np.ndarray:
        if self.calibration == "none":
            return np.zeros(len(self.labels))
        if self.calibration == "domain":
            # what leads to the answer stands alone, as it would after a row
            prompts = [said_to(self._asked, self.prompt).lead_alone]
        else:
            empty = [Example(id="calibration", fields=dict.fromkeys(like.fields, text)) for text in SAYS_NOTHING]
            prompts = [joined(parts) for parts in self._fitted(empty, None)]
        prior_L: np.ndarray = self._scores(prompts).mean(axis=0)
        return prior_L

    def save(self, folder: Path) -> None:
        assert self.base is not None
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "base": self.base.info.name,
            "labels": self.labels,
            "policy": self.policy,
            "prompt": self.prompt.plain(),
            "digest": self.prompt.digest,
            "length": self.length,
            "calibration": self.calibration,
        }
        write_settings(folder / SETTINGS, settings)
        if self.neighbours is not None:
            self.neighbours.save(folder)

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        keys = {"base": str, "labels": list, "policy": str, "prompt": dict, "digest": str, "length": str}
        settings = read_settings(folder / SETTINGS, {**keys, "calibration": str})
        try:
            prompt = Prompt.from_plain(settings["prompt"])
        except (KeyError, TypeError) as error:
            raise BundleError(f"{SETTINGS}: the prompt cannot be read ({error}). The bundle is damaged.") from error
        if prompt.digest != settings["digest"]:
            raise BundleError(f"{SETTINGS}: the prompt is not the one that was measured. Copy the bundle again.")
        base = bases(settings["base"])
        check_turns(prompt, base, SETTINGS)
        return cls(
            base=base,
            neighbours=Neighbours.load(folder, base.info.hidden_size),
            labels=tuple(settings["labels"]),
            policy=settings["policy"],
            prompt=prompt,
            length=settings["length"],
            calibration=settings["calibration"],
        )


class _Showing(Protocol):
    """What may show each row its neighbours."""

    base: Encoder | None
    policy: Truncation
    neighbours: Neighbours | None
    features: Features | None


def shown_before(predictor: _Showing, examples: Sequence[Example]) -> list[tuple[Demonstration, ...]] | None:
    """The neighbours of each row, the nearest last; None where all rows are shown the same."""
    if predictor.neighbours is None:
        return None
    return predictor.neighbours.of(vectors(predictor.base, examples, predictor.policy, predictor.features))


def with_evidence(
    answers: Sequence[Prediction],
    fitted: Sequence[Sequence[Part]],
    shown: Sequence[Sequence[Demonstration]] | None,
) -> list[Prediction]:
    """The answers with the neighbours that their prompts had room for, the nearest first."""
    if shown is None:
        return list(answers)
    return [
        dataclasses.replace(answer, evidence=texts_of(own)[: sum(part.kind == "demonstration" for part in parts)])
        for answer, parts, own in zip(answers, fitted, shown, strict=True)
    ]
