"""What gives way where a prompt is longer than a base can read: demonstrations first, then the row itself.

The instruction, the template, what leads to the answer and the answer never do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunewise.errors import PromptError
from tunewise.prompts.prompt import Part, joined

Count = Callable[[str], int]
"""Tokens of a text."""
Shorten = Callable[[int], str | None]
"""The row's part of the prompt with about so many tokens less of what stands in its fields; None where nothing is left
of them. Each call goes on from the last."""


@dataclass(frozen=True)
class Given:
    """What was given up for prompts to fit."""

    rows: int = 0
    """Rows that lost tokens of their own."""
    demonstrations: int = 0
    input_tokens: int = 0

    def __add__(self, other: "Given") -> "Given":
        return Given(
            self.rows + other.rows,
            self.demonstrations + other.demonstrations,
            self.input_tokens + other.input_tokens,
        )

    def said(self, prompts: int) -> str | None:
        """The sentence that says it of so many prompts, or None."""
        if not (self.rows or self.demonstrations):
            return None
        made = "1 prompt was" if prompts == 1 else f"{prompts:,} prompts were"
        times = "once" if self.demonstrations == 1 else f"{self.demonstrations:,} times"
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        lost = [f"demonstrations were left out {times}"] if self.demonstrations else []
        lost += [f"{rows} lost {self.input_tokens:,} tokens"] if self.rows else []
        return f"{made} made to fit the base: {', and '.join(lost)}."


def fitted(
    parts: Sequence[Part], room: int, count: Count, shorten: Shorten, *, row: str
) -> tuple[tuple[Part, ...], Given]:
    """The prompt in at most `room` tokens, and what was given up for that.

    Demonstrations go in their order, in which the one most like the row comes last, wherever the row itself stands.
    `row` names the row in messages.

    Raises:
        PromptError: without demonstrations and input it still does not fit.
    """
    kept = list(parts)
    if count(joined(kept)) <= room:
        return tuple(kept), Given()
    gone = 0
    while any(part.kind == "demonstration" for part in kept):
        kept.remove(next(part for part in kept if part.kind == "demonstration"))
        gone += 1
        if count(joined(kept)) <= room:
            return tuple(kept), Given(demonstrations=gone)
    at = next(i for i, part in enumerate(kept) if part.kind == "input")
    whole = count(joined(kept))
    over = whole - room
    # tokens join differently at the new edges, so that one cut may not be enough
    while (text := shorten(over)) is not None:
        kept[at] = Part("input", text)
        now = count(joined(kept))
        if now <= room:
            return tuple(kept), Given(1, gone, whole - now)
        over = now - room
    raise PromptError(
        f"prompt, row '{row}': the instruction and what leads to the answer alone take more than the {room:,} tokens "
        "that there is room for. Shorten the instruction, or use a base with a longer limit."
    )
