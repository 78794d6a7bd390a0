"""What a base is told about a row, and what gives way where that is too long."""

import pytest

from tunewise.errors import PromptError
from tunewise.prompts.prompt import Demonstration, Part, Prompt, joined
from tunewise.prompts.row import Row
from tunewise.prompts.window import Given, fitted
from tunewise.types import Example, Message

PROMPT = Prompt(
    instruction="Is the review good or bad?",
    demonstrations=(Demonstration({"text": "never dull"}, "good"), Demonstration({"text": "a bore"}, "bad")),
    words={"pos": "good", "neg": "bad"},
)


def words(text: str) -> int:
    return len(text.split())


class Shorter:
    """Takes words off the end of the row's text."""

    def __init__(self, text: str) -> None:
        self.words = text.split()

    def __call__(self, tokens: int) -> str | None:
        if not self.words:
            return None
        self.words = self.words[: max(0, len(self.words) - tokens)]
        return " ".join(self.words)


def test_a_prompt_is_instruction_demonstrations_row_and_lead() -> None:
    (parts,) = PROMPT.parts([Row("1", {"text": "well acted"})])
    assert joined(parts) == (
        "Is the review good or bad?\n\nnever dull\nAnswer: good\n\na bore\nAnswer: bad\n\nwell acted\nAnswer:"
    )
    assert PROMPT.answer("good") == " good"


def test_several_fields_stand_in_lines_with_their_names() -> None:
    (parts,) = Prompt().parts([Row("1", {"premise": "it rains", "hypo_thesis": "it is wet"})])
    assert joined(parts) == "Premise: it rains\nHypo thesis: it is wet\nAnswer:"


def test_a_template_reads_fields_and_what_stands_in_them_is_inert() -> None:
    prompt = Prompt(template="Text: {{ text }}", lead="\nTopic:")
    (parts,) = prompt.parts([Row("1", {"text": "{{ 7 * 7 }}"})])
    assert joined(parts) == "Text: {{ 7 * 7 }}\nTopic:"


def test_a_prompt_comes_back_from_plain_with_the_same_digest() -> None:
    again = Prompt.from_plain(PROMPT.plain())
    assert again == PROMPT
    assert again.digest == PROMPT.digest
    assert Prompt(instruction="x").digest != PROMPT.digest


def test_nothing_gives_way_where_all_fits() -> None:
    (parts,) = PROMPT.parts([Row("1", {"text": "well acted"})])
    assert fitted(parts, 100, words, Shorter("well acted"), row="1") == (parts, Given())
    assert Given().said(5) is None


def test_the_furthest_demonstration_goes_first_and_the_instruction_never() -> None:
    (parts,) = PROMPT.parts([Row("1", {"text": "well acted"})])
    kept, given = fitted(parts, words(joined(parts)) - 1, words, Shorter("well acted"), row="1")
    assert given == Given(demonstrations=1)
    assert "never dull" not in joined(kept)
    assert "a bore" in joined(kept)


def test_then_the_row_itself_and_what_was_given_up_is_said() -> None:
    (parts,) = PROMPT.parts([Row("1", {"text": "one two three four five"})])
    kept, given = fitted(parts, 6 + 1 + 2, words, Shorter("one two three four five"), row="1")
    assert joined(kept) == "Is the review good or bad?\n\none two\nAnswer:"
    assert given == Given(rows=1, demonstrations=2, input_tokens=3)
    assert (given + given).said(7) == (
        "7 prompts were made to fit the base: demonstrations were left out 4 times, and 2 rows lost 6 tokens."
    )
    assert Given(rows=1, demonstrations=1, input_tokens=3).said(1) == (
        "1 prompt was made to fit the base: demonstrations were left out once, and 1 row lost 3 tokens."
    )
    assert (
        Given(demonstrations=2).said(2) == "2 prompts were made to fit the base: demonstrations were left out 2 times."
    )
    assert Given(rows=2, input_tokens=3).said(9) == "9 prompts were made to fit the base: 2 rows lost 3 tokens."


def test_an_instruction_that_does_not_fit_is_an_error() -> None:
    (parts,) = PROMPT.parts([Row("7", {"text": "well acted"})])
    with pytest.raises(PromptError, match="row '7': the instruction and what leads to the answer alone take more"):
        fitted(parts, 6, words, Shorter("well acted"), row="7")


def test_a_template_that_would_read_the_last_turn_alone_is_refused() -> None:
    turns = (Message("user", "my card was stolen"), Message("assistant", "when"), Message("user", "today"))
    row = Example(id="4", fields={"input": "today"}, messages=turns)
    with pytest.raises(PromptError, match=r"row '4' is a conversation of 3 turns, .* Use \{\{ conversation \}\}"):
        Prompt(template="{{ input }}").parts([row])
    (parts,) = Prompt(template="({{ conversation }})").parts([row])
    assert joined(parts) == "(User: my card was stolen\nAssistant: when\nUser: today)\nAnswer:"


def test_a_row_without_fields_is_an_error() -> None:
    with pytest.raises(PromptError, match="row '3' has no fields"):
        Prompt().parts([Row("3", {})])


def test_parts_say_what_they_are_for() -> None:
    (parts,) = PROMPT.parts([Row("1", {"text": "x"})])
    assert [part.kind for part in parts] == ["instruction", "demonstration", "demonstration", "input", "lead"]
    assert parts[-1] == Part("lead", "\nAnswer:")
