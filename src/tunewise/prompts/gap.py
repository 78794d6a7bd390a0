"""A prompt with a gap in which the answer stands: for bases that fill gaps instead of writing on."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from tunewise.errors import PromptError
from tunewise.prompts.prompt import BETWEEN, Demonstration, Part, Prompt, different_rows
from tunewise.prompts.row import AnyRow
from tunewise.prompts.template import Template
from tunewise.types import GAP, NEXT

FIELD = "mask"
"""By this name a template or a lead says where the answer stands: `It was {{ mask }}.`"""
_PLACE = re.compile(r"\{\{\s*" + FIELD + r"\s*\}\}")


@dataclass(frozen=True, kw_only=True)
class GapPrompt(Prompt):
    """As the prompt it is made of, with a gap where template or lead says `{{ mask }}`.

    Where neither does, the gap follows what leads to the answer, and a full stop follows the gap: what ends a text is
    likeliest to be a full stop. Rows that are shown follow the row, as in LM-BFF (Gao et al. 2021, arXiv 2012.15723).
    """

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        return cls(**{field.name: getattr(prompt, field.name) for field in fields(Prompt)})

    def parts(
        self,
        rows: Sequence[AnyRow],
        shown: Sequence[Sequence[Demonstration]] | None = None,
        whole: Sequence[AnyRow] | None = None,
    ) -> list[tuple[Part, ...]]:
        if shown is None:
            shown = [self.demonstrations] * len(rows)
        different, to_render = different_rows(shown)
        blocks, lead = self._blocks([*to_render, *rows], [*to_render, *(whole or rows)]), self._lead
        part_of = {
            key: Part("demonstration", NEXT + self.completed(block + lead, self.neutral(each.answer)))
            for (key, each), block in zip(different.items(), blocks, strict=False)
        }
        before = [Part("instruction", self.instruction + BETWEEN)] if self.instruction else []
        return [
            (*before, Part("input", block), Part("lead", lead), *(part_of[id(each)] for each in own))
            for own, block in zip(shown, blocks[len(different) :], strict=True)
        ]

    def completed(self, text: str, answer: str) -> str:
        return text.replace(GAP, answer).replace(NEXT, BETWEEN)

    @property
    def lead_alone(self) -> str:
        """What leads to the answer, with its gap.

        Raises:
            PromptError: the answer stands in the template, so nothing leads to it.
        """
        if not self._lead:
            raise PromptError(
                "prompt: `calibration: domain` needs a `lead`, and here the template says where the answer stands. "
                "Use 'none' or 'contextual'."
            )
        return self._lead.lstrip()

    @functools.cached_property
    def _in_template(self) -> bool:
        return self.template is not None and FIELD in Template(self.template, name="prompt").fields

    @property
    def _lead(self) -> str:
        if self._in_template:
            return ""
        lead, places = _PLACE.subn(GAP, self.lead)
        if places > 1:
            raise PromptError(f"prompt: `lead` has {places} places for the answer, {self.lead!r}. Leave one.")
        return lead if places else f"{lead} {GAP}."

    def _blocks(self, rows: Sequence[AnyRow], whole: Sequence[AnyRow]) -> list[str]:
        rows, whole = [_without_marks(row) for row in rows], [_without_marks(row) for row in whole]
        if not self._in_template:
            return super()._blocks(rows, whole)
        blocks = super()._blocks([_with_gap(row) for row in rows], whole)
        for row, block in zip(rows, blocks, strict=True):
            if block.count(GAP) != 1:
                raise PromptError(
                    f"prompt, row '{row.id}': the template has {block.count(GAP)} places for the answer, and one is "
                    "needed. Say {{ mask }} once, whatever the row holds."
                )
        return blocks


def names_place(lead: str) -> bool:
    """Whether what leads to an answer says where the answer stands."""
    return _PLACE.search(lead) is not None


def _with_gap(row: AnyRow) -> AnyRow:
    return dataclasses.replace(row, fields={**row.fields, FIELD: GAP})


def _without_marks(row: AnyRow) -> AnyRow:
    """The row without characters that mark a gap, which are no text."""
    if not any(mark in str(value) for value in row.fields.values() for mark in (GAP, NEXT)):
        return row
    bare = {name: str(value).replace(GAP, "").replace(NEXT, "") for name, value in row.fields.items()}
    return dataclasses.replace(row, fields=bare)
