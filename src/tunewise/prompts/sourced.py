"""A PromptSource template in a task: its input side asks about a row, its target side says what a label is called."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tunewise.errors import PromptError, did_you_mean
from tunewise.prompts.labels import in_words
from tunewise.prompts.promptsource import PromptSourceTemplate, Rendered, load_templates
from tunewise.prompts.row import AnyRow, Row

UNKNOWN = "?"
"""What the field of a target holds while it is asked for, where it is a text."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A template, and what it is given in the place of the target while a row is asked about."""

    id: str
    name: str
    jinja: str
    answer_choices: str | None = None
    unknown: Mapping[str, Any]
    seed: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `Source(**plain)` gives it back."""
        return asdict(self)

    @classmethod
    def of(cls, template: PromptSourceTemplate, unknown: Mapping[str, Any], seed: int) -> Self:
        return cls(
            id=template.id,
            name=template.name,
            jinja=template.jinja,
            answer_choices=template.answer_choices,
            unknown=dict(unknown),
            seed=seed,
        )

    def blocks(self, rows: Sequence[AnyRow], whole: Sequence[AnyRow] | None = None) -> list[str]:
        """The input side for each row; `whole` as for `pairs`.

        Raises:
            PromptError: the template makes no pair of a row, or fails.
        """
        return [each.input for each in self.pairs(rows, [self.unknown] * len(rows), whole)]

    def pairs(
        self,
        rows: Sequence[AnyRow],
        targets: Sequence[Mapping[str, Any]],
        whole: Sequence[AnyRow] | None = None,
    ) -> list[Rendered]:
        """Both sides for each row with its target's field. Draws are by what the rows hold, not by where they stand.

        `whole`: what the rows were before something was cut off them, by which is drawn.

        Raises:
            PromptError: the template makes no pair of a row, or fails.
        """
        own = [Row(row.id, {**row.fields, **target}) for row, target in zip(rows, targets, strict=True)]
        found = self._template.render(own, seed=self.seed, draws=[_content(row) for row in whole or rows])
        for row, each in zip(rows, found, strict=True):
            if each is None:
                raise PromptError(
                    f"{self.name}: the template makes no prompt of row '{row.id}'. Use one that asks about every row, "
                    "or leave the row out."
                )
        return [each for each in found if each is not None]

    @property
    def reads(self) -> frozenset[str]:
        """The fields of a row that it asks by."""
        return self._template.fields

    @functools.cached_property
    def _template(self) -> PromptSourceTemplate:
        return PromptSourceTemplate(id=self.id, name=self.name, jinja=self.jinja, answer_choices=self.answer_choices)


def _content(row: AnyRow) -> str:
    text = json.dumps(dict(row.fields), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def named_template(path: Path, name: str | None) -> PromptSourceTemplate:
    """The template of this name or id, or the only one of the file.

    Raises:
        PromptError: the file cannot be read, there is no such template, or it is not said which of several.
    """
    found = load_templates(path)
    names = [template.name for template in found]
    if name is None:
        if len(found) > 1:
            raise PromptError(
                f"{path}: holds {len(found)} templates. Say which under `prompt`: `name: {names[0]}`, for example."
            )
        return found[0]
    for template in found:
        if name in (template.name, template.id):
            return template
    raise PromptError(f"{path}: there is no template '{name}'.{did_you_mean(name, names)}")


def source_of_labels(
    template: PromptSourceTemplate,
    labels: Sequence[str],
    rows: Sequence[AnyRow],
    *,
    target: str | None = None,
    answers: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[Source, dict[str, str]]:
    """The template as it asks for a label, and the words that its target side has for each.

    `target`: name of the column of labels, where it is known. `answers`: for each label, which of the template's
    answers is meant; found where the template knows the labels by their text, and where labels are numbers or have the
    answers' names. `rows`: some, to try it on.

    Raises:
        PromptError: which answer stands for which label cannot be told; the input side gives the label away, or the
            target side says other words for it in other rows.
    """
    field = _target_field(template, rows, target)
    first = Source.of(template, {field: 0} if field else {}, seed)
    choices = first.pairs(rows[:1], [first.unknown])[0].choices if rows else None
    values = _values(template, labels, choices, answers or {}, _known(first, labels, rows, field, choices))
    source = Source.of(template, {field: values[labels[0]]} if field else {}, seed)
    sides: dict[str, list[Rendered]] = {
        label: source.pairs(rows, [{field: values[label]} if field else {}] * len(rows)) for label in labels
    }
    words: dict[str, str] = {}
    for label, found in sides.items():
        said = {" ".join(each.target.split()) for each in found}
        if len(said) > 1:
            raise PromptError(
                f"{template.name}: says other words for the label '{label}' in other rows ('{min(said)}', "
                f"'{max(said)}'), and the words of a label must be the same in all. Use another template."
            )
        words[label] = min(said, default=str(values[label]))
        if answers and answers[label] not in words[label]:
            raise PromptError(
                f"{template.name}: says '{words[label]}' for the label '{label}', and `answers` wants "
                f"'{answers[label]}'. Leave `answers` out, or use another template."
            )
        for row, each, one in zip(rows, found, sides[labels[0]], strict=True):
            _refuse_given_away(template, row, each.input == one.input)
    return source, words


def source_of_texts(
    template: PromptSourceTemplate,
    rows: Sequence[AnyRow],
    wanted: Sequence[str],
    *,
    target: str | None = None,
    seed: int = 0,
) -> Source:
    """The template as it asks for a text to be written; `rows` and the texts `wanted` are some, to try it on.

    Raises:
        PromptError: the input side gives the text away, or the target side is not the text alone.
    """
    field = _target_field(template, rows, target)
    source = Source.of(template, {field: UNKNOWN} if field else {}, seed)
    asked = source.blocks(rows)
    known = source.pairs(rows, [{field: text} if field else {} for text in wanted])
    for row, block, each, text in zip(rows, asked, known, wanted, strict=True):
        _refuse_given_away(template, row, each.input == block)
        if each.target != text.strip():
            raise PromptError(
                f"{template.name}: for row '{row.id}' its target side is {each.target[:80]!r}, and the target is "
                f"{text.strip()[:80]!r}: what is written would not be what is measured. Use a template whose target "
                "side is the target alone."
            )
    return source


def _refuse_given_away(template: PromptSourceTemplate, row: AnyRow, same: bool) -> None:
    if not same:
        raise PromptError(
            f"{template.name}: what it asks about row '{row.id}' depends on the row's target, which is not known when "
            "it is asked. Use another template."
        )


def _target_field(template: PromptSourceTemplate, rows: Sequence[AnyRow], target: str | None) -> str | None:
    """The field that is no input; None where the template reads none."""
    columns = list(rows[0].fields) if rows else []
    missing = sorted(template.needed - set(columns))
    if not missing:
        return None
    field = target if target in missing else missing[0]
    if len(missing) > 1:
        template.check([*columns, field])
    return field


def _known(
    source: Source, labels: Sequence[str], rows: Sequence[AnyRow], field: str | None, choices: Sequence[str] | None
) -> bool:
    """Whether the template, given the labels themselves, has another of its answers for each."""
    if field is None or not rows or not choices:
        return False
    try:
        pairs = source.pairs(list(rows[:1]) * len(labels), [{field: label} for label in labels])
    except PromptError:  # it reads the place of an answer, or something else
        return False
    said = [" ".join(each.target.split()) for each in pairs]
    return len(set(said)) == len(labels) and set(said) <= {" ".join(choice.split()) for choice in choices}


def _values(
    template: PromptSourceTemplate,
    labels: Sequence[str],
    choices: Sequence[str] | None,
    answers: Mapping[str, str],
    known: bool,
) -> dict[str, Any]:
    """What the label's field holds for each label: the place of its answer, or the label itself."""
    for label in answers:
        if label not in labels:
            raise PromptError(f"prompt: `answers` names a label '{label}'.{did_you_mean(label, labels)}")
    if choices is None:
        if answers:
            raise PromptError(f"prompt: `answers` is given, and {template.name} has none. Leave it out.")
        numbers = all(label.isdecimal() for label in labels)
        return {label: int(label) if numbers else label for label in labels}
    if known and not answers:
        return {label: label for label in labels}
    if answers:
        return {label: _stated(template, label, choices, answers) for label in labels}
    if all(label.isdecimal() for label in labels) and len(choices) == len(labels):
        start = min(map(int, labels))
        if sorted(int(label) - start for label in labels) == list(range(len(labels))):
            return {label: int(label) - start for label in labels}
    place = {choice.casefold(): i for i, choice in enumerate(choices)}
    found = {label: place.get(label.casefold(), place.get(in_words(label).casefold())) for label in labels}
    if len(place) == len(choices) and None not in found.values():
        return found
    raise PromptError(
        f"{template.name}: which of its answers ({', '.join(choices)}) stands for which label ({', '.join(labels)}) "
        f"cannot be told. Say it under `prompt`: `answers: {{{labels[0]}: {choices[0]}, ...}}`."
    )


def _stated(template: PromptSourceTemplate, label: str, choices: Sequence[str], answers: Mapping[str, str]) -> int:
    if label not in answers:
        raise PromptError(f"prompt: `answers` has nothing for the label '{label}'. Name one of {', '.join(choices)}.")
    if answers[label] not in choices:
        raise PromptError(
            f"prompt: {template.name} has no answer '{answers[label]}'.{did_you_mean(answers[label], choices)}"
        )
    return list(choices).index(answers[label])
