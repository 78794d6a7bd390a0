"""A prompt as a conversation: the instruction as the system's message, shown rows and the question as turns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from tunewise.errors import PromptError
from tunewise.prompts.prompt import Demonstration, Part, Prompt, different_rows
from tunewise.prompts.row import AnyRow
from tunewise.prompts.turns import Turns
from tunewise.types import Example


@dataclass(frozen=True, kw_only=True)
class ChatPrompt(Prompt):
    """As the prompt it is made of, which must have `turns`."""

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        return cls(**{field.name: getattr(prompt, field.name) for field in fields(Prompt)})

    def parts(
        self,
        rows: Sequence[AnyRow],
        shown: Sequence[Sequence[Demonstration]] | None = None,
        whole: Sequence[AnyRow] | None = None,
    ) -> list[tuple[Part, ...]]:
        turns = self._turns
        shown = [self.demonstrations] * len(rows) if shown is None else shown
        different, to_render = different_rows(shown)
        blocks = self._blocks([*to_render, *rows], [*to_render, *(whole or rows)])
        part_of = {
            each: Part("demonstration", turns.said([self._user(block), self.neutral(own.answer)]) + turns.question)
            for (each, own), block in zip(different.items(), blocks, strict=False)
        }
        # templates write turns without the blanks around them, and with something to lead the turn ends with that
        lead = Part("lead", self.lead.rstrip() + turns.opening)
        return [
            (
                Part("instruction", turns.beginning(self._system(row))),
                *(part_of[id(each)] for each in own),
                Part("input", block.lstrip() if self.lead.strip() else block.strip()),
                lead,
            )
            for row, own, block in zip(rows, shown, blocks[len(different) :], strict=True)
        ]

    @property
    def lead_alone(self) -> str:
        return self._turns.beginning("") + self.lead.strip() + self._turns.opening

    @property
    def _turns(self) -> Turns:
        assert self.turns is not None
        return self.turns

    @property
    def _as_turns(self) -> bool:
        """Whether a conversation is asked about turn by turn, or as one text that a template makes of it."""
        return self.template is None and self.source is None

    def _user(self, block: str) -> str:
        return (block + self.lead).strip()

    def _system(self, row: AnyRow) -> str:
        said = [self.instruction.strip()]
        if isinstance(row, Example) and self._as_turns:
            said += [self.neutral(turn.content).strip() for turn in row.messages if turn.role == "system"]
        return "\n\n".join(text for text in said if text)

    def _listed(self, row: AnyRow) -> str:
        if not isinstance(row, Example) or not row.messages:
            return super()._listed(row)
        said = [turn for turn in row.messages if turn.role != "system"]
        for turn in said:
            if turn.role == "tool":
                raise PromptError(
                    f"prompt: row '{row.id}' has a turn of a tool, which is not written by chat templates here. Use "
                    "`format: plain`."
                )
        return self._turns.said([turn.content.strip() for turn in said])
