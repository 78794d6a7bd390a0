"""A chat template as the few texts that it puts between what is said, found by rendering it once.

With them prompts are made, cut and counted like any others, thousands at a time, and what is served is to the letter
what was measured. A template that does more than to put texts between turns is refused.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from tunewise.errors import PromptError
from tunewise.prompts.chat import ChatMessage, ChatTemplate, Conversation, render_prompts

SYSTEM = "x0sys0x"
SAID = ("x1usr1x", "x2asst2x", "x3usr3x", "x4asst4x", "x5usr5x")
"""What is said while a template is looked at, by a user and an assistant in turn."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What a chat template writes around turns."""

    source: str
    """The template itself, by which it is seen whether a base still has it."""
    start: str
    """Before the first turn of the user, where there is no system's message."""
    before_system: str | None
    after_system: str | None
    """Around the system's message, up to the first turn of the user; None where the template has no such message."""
    answer: str
    """Between a turn of the user and one of the assistant."""
    question: str
    """Between a turn of the assistant and the next of the user."""
    opening: str
    """After the last turn of the user, where the assistant is to begin."""
    end: str | None
    """The control token that ends a turn of the assistant; None where the template has none."""

    @classmethod
    def of(cls, template: ChatTemplate) -> Self:
        """What this template writes.

        Raises:
            PromptError: it fails, or writes different things around the same turns.
        """
        one, two, three = _rendered(template, [SAID[:1], SAID[:3], SAID[:5]])
        start, opening = _between(template, one, SAID[:1])
        _, answer, question, _ = _between(template, two, SAID[:3])
        between = [start, answer, question, answer, question, opening]
        if _between(template, three, SAID) != between or _between(template, two, SAID[:3]) != [*between[:3], opening]:
            raise PromptError(
                f"{template.name}: what it writes around a turn depends on how many there are, so that prompts cannot "
                "be made of parts. Use `format: plain`."
            )
        before, after = _around_system(template, between)
        return cls(
            source=template.source,
            start=start,
            before_system=before,
            after_system=after,
            answer=answer,
            question=question,
            opening=opening,
            end=_first_token(question, template.control_tokens),
        )

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `Turns(**plain)` gives it back."""
        return asdict(self)

    @property
    def answer_start(self) -> str:
        """What the template writes before an answer beyond what it opens it with."""
        return self.answer.removeprefix(self.opening) if self.answer.startswith(self.opening) else ""

    def beginning(self, system: str) -> str:
        """All that stands before the first turn; what has no place of its own begins that turn."""
        if not system:
            return self.start
        if self.before_system is None or self.after_system is None:
            return f"{self.start}{system}\n\n"
        return f"{self.before_system}{system}{self.after_system}"

    def said(self, texts: Sequence[str]) -> str:
        """What a user and an assistant say in turn."""
        between = [self.answer, self.question] * (len(texts) // 2)
        return texts[0] + "".join(gap + text for gap, text in zip(between, texts[1:], strict=False))


def _rendered(template: ChatTemplate, turns: Sequence[Sequence[str]], system: str | None = None) -> list[str]:
    found = []
    for texts in turns:
        messages = [ChatMessage(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
        first = [] if system is None else [ChatMessage("system", system)]
        found.append(Conversation("of the template", (*first, *messages)))
    return [each.text for each in render_prompts(template, found)]


def _between(template: ChatTemplate, text: str, said: Sequence[str]) -> list[str]:
    """What stands before, between and after what is said."""
    gaps = []
    for each in said:
        before, found, text = text.partition(each)
        if not found:
            raise PromptError(
                f"{template.name}: it does not write every turn of a conversation, each once and in their order. Use "
                "`format: plain`."
            )
        gaps.append(before)
    if any(each in text for each in said):
        raise PromptError(f"{template.name}: it writes a turn twice. Use `format: plain`.")
    return [*gaps, text]


def _around_system(template: ChatTemplate, between: Sequence[str]) -> tuple[str | None, str | None]:
    """What stands around a system's message; None twice where there is no place for it before the turns."""
    try:
        one, two = _rendered(template, [SAID[:1], SAID[:3]], SYSTEM)
        before, after, *rest = _between(template, one, [SYSTEM, *SAID[:1]])
        again = _between(template, two, [SYSTEM, *SAID[:3]])
    except PromptError:
        return None, None
    same = rest == [between[-1]] and again == [before, after, *between[1:3], between[-1]]
    return (before, after) if same else (None, None)


def _first_token(text: str, tokens: Sequence[str]) -> str | None:
    """The control token that stands first in a text; of several there, the longest."""
    found = [(text.index(token), -len(token), token) for token in tokens if token and token in text]
    return min(found)[2] if found else None
