"""A row as a base is asked about it: instruction, rows with their answers, the row itself, what leads to its answer."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from tunewise.errors import PromptError
from tunewise.prompts.chat import neutralise
from tunewise.prompts.row import AnyRow, Row
from tunewise.prompts.sourced import Source
from tunewise.prompts.template import Template, render_many
from tunewise.prompts.turns import Turns
from tunewise.types import Example, Message

PartKind = Literal["instruction", "demonstration", "input", "lead"]
BETWEEN = "\n\n"


class Part(NamedTuple):
    """A piece of a prompt, and what it is for: by that it is decided what gives way where a prompt is too long."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Demonstration:
    """A row that is shown with its answer."""

    fields: Mapping[str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is said to the base about every row; two prompts that say the same have the same digest."""

    instruction: str = ""
    template: str | None = None
    """Jinja over the fields of a row; None: a single text as it is, several fields with their names before them."""
    source: Source | None = None
    """A template of PromptSource, in the place of `template`."""
    lead: str = "\nAnswer:"
    """Stands between a row and its answer, which follows after a space."""
    demonstrations: tuple[Demonstration, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """What is said for each label; empty where texts are written."""
    turns: Turns | None = None
    """By which the prompt is a conversation; None: it is a plain text. `ChatPrompt` says how."""
    control_tokens: tuple[str, ...] = ()
    """Texts that the base reads as one token of its own; in what rows say they are broken up."""

    @property
    def digest(self) -> str:
        text = json.dumps(self.plain(), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `from_plain` gives the prompt back."""
        return {
            "instruction": self.instruction,
            "template": self.template,
            "source": None if self.source is None else self.source.plain(),
            "lead": self.lead,
            "demonstrations": [{"fields": dict(d.fields), "answer": d.answer} for d in self.demonstrations],
            "words": dict(self.words),
            "turns": None if self.turns is None else self.turns.plain(),
            "control_tokens": list(self.control_tokens),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        shown = tuple(Demonstration(dict(d["fields"]), str(d["answer"])) for d in plain["demonstrations"])
        made: dict[str, Any] = {
            "demonstrations": shown,
            "words": dict(plain["words"]),
            "source": None if plain["source"] is None else Source(**plain["source"]),
            "turns": None if plain["turns"] is None else Turns(**plain["turns"]),
            "control_tokens": tuple(plain["control_tokens"]),
        }
        return cls(**{**plain, **made})

    def parts(
        self,
        rows: Sequence[AnyRow],
        shown: Sequence[Sequence[Demonstration]] | None = None,
        whole: Sequence[AnyRow] | None = None,
    ) -> list[tuple[Part, ...]]:
        """The prompt of each row, in pieces that make it when they are joined.

        `shown`: what is shown before each row, in the place of what is shown before all. `whole`: what the rows were
        before something was cut off them, by which a template's draws stay the same.

        Raises:
            PromptError: a row lacks a field that the template reads, or the template fails.
        """
        if shown is None:
            shown = [self.demonstrations] * len(rows)
        different, to_render = different_rows(shown)
        blocks = self._blocks([*to_render, *rows], [*to_render, *(whole or rows)])
        part_of = {
            key: Part("demonstration", f"{block}{self.lead}{self.answer(self.neutral(each.answer))}{BETWEEN}")
            for (key, each), block in zip(different.items(), blocks, strict=False)
        }
        before = [Part("instruction", self.instruction + BETWEEN)] if self.instruction else []
        return [
            (*before, *(part_of[id(each)] for each in own), Part("input", block), Part("lead", self.lead))
            for own, block in zip(shown, blocks[len(different) :], strict=True)
        ]

    def answer(self, text: str) -> str:
        """What follows the prompt where this is the answer."""
        return f" {text}" if self.turns is None else self.turns.answer_start + text

    def completed(self, text: str, answer: str) -> str:
        """A prompt's text with this answer where it belongs."""
        return text + self.answer(answer)

    @property
    def reads(self) -> frozenset[str] | None:
        """The fields of a row that it is made of; None: all."""
        if self.source is not None:
            return self.source.reads
        return None if self.template is None else Template(self.template, name="prompt").fields

    @property
    def before_answer(self) -> str:
        """What stands directly before an answer."""
        return self.lead if self.turns is None else self.turns.opening

    @property
    def lead_alone(self) -> str:
        """What leads to the answer, as it would begin a text."""
        return self.lead.lstrip()

    def neutral(self, text: str) -> str:
        """The text with control tokens broken up: whoever wrote a row does not speak for the base."""
        return neutralise(text, self.control_tokens)[0]

    def wanted(self, target: str) -> str:
        """A text that is to be written, with control tokens broken up.

        One that is nothing else stays as it is, so that it is seen that there is nothing to learn.
        """
        rest = target
        for token in self.control_tokens:
            rest = rest.replace(token, "")
        return self.neutral(target) if rest.strip() else target

    def control_tokens_in(self, rows: Sequence[Example]) -> int:
        """How many control tokens these rows hold, which are broken up; those of texts to be written among them."""
        texts = [text for row in rows for text in (*row.texts, *(turn.content for turn in row.messages[:-1]))]
        if not self.words:
            texts += [
                row.target for row in rows if isinstance(row.target, str) and self.wanted(row.target) != row.target
            ]
        return sum(neutralise(text, self.control_tokens)[1] for text in texts)

    def _neutral(self, row: AnyRow) -> AnyRow:
        if isinstance(row, Example) and row.messages:
            messages = tuple(dataclasses.replace(turn, content=self.neutral(turn.content)) for turn in row.messages)
            row = dataclasses.replace(row, messages=messages)
        fields = {name: self.neutral(text) if isinstance(text, str) else text for name, text in row.fields.items()}
        return dataclasses.replace(row, fields=fields)

    def _blocks(self, rows: Sequence[AnyRow], whole: Sequence[AnyRow]) -> list[str]:
        if self.control_tokens:
            rows, whole = [self._neutral(row) for row in rows], [self._neutral(row) for row in whole]
        if self.source is not None:
            fields = self.source.reads
            return self.source.blocks(
                [_to_render(row, fields) for row in rows], [_to_render(row, fields) for row in whole]
            )
        if self.template is not None:
            template = Template(self.template, name="prompt")
            return render_many(template, [_to_render(row, template.fields) for row in rows])
        return [self._listed(row) for row in rows]

    def _listed(self, row: AnyRow) -> str:
        return _listed(row)


def different_rows(shown: Sequence[Sequence[Demonstration]]) -> tuple[dict[int, Demonstration], list[Row]]:
    """Of rows that are shown, often to many, each once, by its identity; and as rows to render."""
    different = {id(each): each for own in shown for each in own}
    return different, [Row(f"demonstration {i}", each.fields) for i, each in enumerate(different.values(), 1)]


def _to_render(row: AnyRow, fields: Collection[str]) -> AnyRow:
    """The row with its conversation as a field.

    Raises:
        PromptError: a conversation of several turns, of which the template would read the last alone.
    """
    if not isinstance(row, Example) or not row.messages:
        return row
    if len(row.messages) > 1 and "conversation" not in fields:
        raise PromptError(
            f"prompt: row '{row.id}' is a conversation of {len(row.messages)} turns, and the template reads its last "
            "one alone. Use {{ conversation }}, which holds all turns."
        )
    return Row(row.id, {**row.fields, "conversation": _turns(row.messages)})


def _turns(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in messages)


def joined(parts: Sequence[Part]) -> str:
    """The text of a prompt."""
    return "".join(part.text for part in parts)


def shown_fields(row: Example) -> dict[str, str]:
    """What a demonstration shows of a row: its fields, or the turns of its conversation as one text."""
    return {**row.fields, "conversation": _turns(row.messages)} if row.messages else dict(row.fields)


def _listed(row: AnyRow) -> str:
    """A single text as it is; several fields, and the turns of a conversation, in lines of their own after their names.

    A conversation of one turn is that turn's text.
    """
    if isinstance(row, Example) and row.messages:
        return _turns(row.messages)
    if not row.fields:
        raise PromptError(f"prompt: row '{row.id}' has no fields, so there is nothing to ask about.")
    if row.fields.keys() == {"input", "conversation"}:  # of a row that is shown with its answer
        return str(row.fields["conversation"])
    if len(row.fields) == 1:
        return str(next(iter(row.fields.values())))
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {value}" for name, value in row.fields.items())
