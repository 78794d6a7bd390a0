"""PromptSource's templates, rendered as PromptSource renders them (Bach et al. 2022), except that draws are seeded."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import PromptError, did_you_mean
from tunewise.prompts.fields import FieldsRead, fields_of
from tunewise.prompts.row import AnyRow, as_json, room
from tunewise.prompts.sandbox import SANDBOX, Request
from tunewise.prompts.tagged import read_tagged
from tunewise.prompts.template import refuse_long
from tunewise.seeding import derive

METRICS = (
    *("Accuracy", "AUC", "BLEU", "COQA F1", "Edit Distance", "Mean Reciprocal Rank", "MultiRC", "Other"),
    *("Pearson Correlation", "ROUGE", "Spearman Correlation", "Squad", "Trivia QA"),
)
CHOICES = "answer_choices"
FILE_KEYS = ("dataset", "subset", "templates")
KEYS = ("answer_choices", "id", "jinja", "metadata", "name", "reference", "task_template")
ABOUT_KEYS = ("choices_in_prompt", "languages", "metrics", "original_task", "task_template")


@dataclass(frozen=True)
class Rendered:
    """One row as a pair of texts, with the answers that the template knows."""

    input: str
    target: str
    choices: tuple[str, ...] | None
    cut: int = 0
    """How many values lost characters, where cutting was asked for."""


@dataclass(frozen=True, kw_only=True)
class PromptSourceTemplate:
    """One prompt of a `templates.yaml`, with what its authors noted about it."""

    id: str
    name: str
    jinja: str
    answer_choices: str | None = None
    """Jinja that prints the possible answers with `|||` between them."""
    metrics: tuple[str, ...] = ()
    original_task: bool | None = None
    choices_in_prompt: bool | None = None
    languages: tuple[str, ...] = ()
    reference: str = ""

    def __post_init__(self) -> None:
        refuse_long(self.jinja, self.name)
        refuse_long(self.answer_choices or "", self.name)

    @functools.cached_property
    def _read(self) -> FieldsRead:
        sources = [self.jinja, *([] if self.answer_choices is None else [self.answer_choices])]
        reads = [fields_of(source, "promptsource", name=self.name) for source in sources]
        needed = frozenset[str]().union(*(read.needed for read in reads)) - {CHOICES}
        return FieldsRead(needed, frozenset[str]().union(*(read.spared for read in reads)) - needed)

    @property
    def fields(self) -> frozenset[str]:
        """The fields of a row that the template or its answers read."""
        return self._read.needed | self._read.spared

    @property
    def needed(self) -> frozenset[str]:
        """The fields of a row that it cannot do without."""
        return self._read.needed

    def check(self, fields: Collection[str]) -> None:
        """Raises PromptError when it reads a field that is not among these: PromptSource would print nothing there."""
        self._read.check(fields, name=self.name, source=self.jinja)

    def render(
        self, rows: Sequence[AnyRow], *, seed: int = 0, cut: bool = False, draws: Sequence[str] | None = None
    ) -> list[Rendered | None]:
        """Input and target for each row; None where the template makes no pair of a row, so that it is skipped.

        `choice` and `random` draw by (seed, template id, row id), or by `draws` in the place of row ids. With `cut`
        every value is cut at 2,048 characters, as PromptSource does unless told otherwise; each result says how many
        were.

        Raises:
            PromptError: a row has a field `answer_choices`, or makes three parts, or rendering failed or took too much.
        """
        job = {"do": "promptsource", "source": self.jinja, "choices": self.answer_choices, "cut": cut}
        names = [row.id for row in rows] if draws is None else draws
        requests = [
            self._request(row, derive(seed, "promptsource", self.id, name))
            for row, name in zip(rows, names, strict=True)
        ]
        answers = SANDBOX.run(job, requests, name=self.name)
        return [self._pair(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _request(self, row: AnyRow, seed: int) -> Request:
        if CHOICES in row.fields:
            raise PromptError(
                f"{self.name}: row '{row.id}' has a field '{CHOICES}', a name that PromptSource keeps for the answers "
                "of the template. Rename the field."
            )
        text = as_json(row, name=self.name)
        body = f'{{"fields": {text}, "room": {room(text)}, "seed": "{seed}"}}'
        return Request(body, row.id, tuple(row.fields))

    def _pair(self, row: AnyRow, answer: dict[str, Any]) -> Rendered | None:
        parts: list[str] = answer["parts"]
        if len(parts) > 2:
            raise PromptError(
                f"{self.name}: row '{row.id}' makes {len(parts)} parts, and a pair has two: an input, `|||`, a target. "
                "Look for `|||` inside a list of the row, or printed twice by the template."
            )
        if len(parts) == 1 or not parts[0]:
            return None
        choices = answer["choices"]
        return Rendered(parts[0], parts[1], None if choices is None else tuple(choices), answer["cut"])


def load_templates(path: Path) -> list[PromptSourceTemplate]:
    """The templates of a `templates.yaml`, in its order.

    Raises:
        PromptError: missing file, more than 1 MB, unknown tags or keys, aliases, a key twice, or deep nesting.
    """
    loaded = _known(read_tagged(path, tags=("!Template", "!TemplateMetadata")), FILE_KEYS, str(path))
    templates = loaded.get("templates")
    if not isinstance(templates, dict) or not templates:
        raise PromptError(f"{path}: no templates. A PromptSource file has the key `templates` with one at least.")
    return [_template(str(key), raw, path) for key, raw in templates.items()]


def _template(key: str, raw: Any, path: Path) -> PromptSourceTemplate:
    where = f"{path}: template {key}"
    values = _known(raw, KEYS, where)
    about = _known(values.get("metadata") or {}, ABOUT_KEYS, where)
    # before `original_task` had its name it was called `task_template`, and so, elsewhere, was `jinja`
    legacy = about.get("task_template", values.get("task_template"))
    jinja = values.get("jinja", legacy if isinstance(legacy, str) else None)
    if not isinstance(jinja, str):
        raise PromptError(f"{where}: `jinja` is missing; it is the text of the template.")
    flag = about.get("original_task", legacy if isinstance(legacy, bool) else None)
    choices = values.get(CHOICES)
    return PromptSourceTemplate(
        id=str(values.get("id") or key),
        name=str(values.get("name") or key),
        jinja=jinja,
        answer_choices=None if choices is None else str(choices),
        metrics=tuple(dict.fromkeys(_metric(name) for name in about.get("metrics") or ())),
        original_task=_flag(flag, f"{where}: `original_task`"),
        choices_in_prompt=_flag(about.get("choices_in_prompt"), f"{where}: `choices_in_prompt`"),
        languages=tuple(str(language) for language in about.get("languages") or ()),
        reference=str(values.get("reference") or ""),
    )


def _known(raw: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise PromptError(f"{where}: expected keys and values, found {type(raw).__name__}.")
    for key in raw:
        if key not in keys:
            raise PromptError(f"{where}: there is no key '{key}'.{did_you_mean(str(key), keys)}")
    return raw


def _flag(value: Any, where: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise PromptError(f"{where} is true or false, found {value!r}.")


def _metric(name: Any) -> str:
    """The name as PromptSource lists it, whatever its case and spacing; unknown names stay."""
    plain = {metric.casefold().replace(" ", ""): metric for metric in METRICS}
    return plain.get("".join(str(name).replace("_", " ").casefold().split()), str(name).strip())
