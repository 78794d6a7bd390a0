"""Prompts with a gap: where the answer stands, what is shown, and what a row cannot bring along."""

import pytest

from tunewise.errors import PromptError
from tunewise.prompts.gap import GapPrompt
from tunewise.prompts.prompt import Demonstration, Prompt, joined
from tunewise.types import GAP, NEXT, Example

ROW = Example(id="1", fields={"text": "never dull"})


def text(row: Example = ROW, **changes: object) -> str:
    (parts,) = GapPrompt.of(Prompt(**changes)).parts([row])  # type: ignore[arg-type]
    return joined(parts)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, f"never dull\nAnswer: {GAP}."),
        ({"lead": " It was {{ mask }}!"}, f"never dull It was {GAP}!"),
        ({"lead": " It was {{mask}}!", "instruction": "Judge."}, f"Judge.\n\nnever dull It was {GAP}!"),
        ({"template": "{{ text }}? {{ mask }}, indeed."}, f"never dull? {GAP}, indeed."),
        ({"template": "{{ mask }}: {{ text }}"}, f"{GAP}: never dull"),
        ({"template": "Film: {{ text }}"}, f"Film: never dull\nAnswer: {GAP}."),
        ({"template": "{% if text %}{{ mask }}{% endif %} {{ text }}"}, f"{GAP} never dull"),
    ],
)
def test_the_template_or_the_lead_says_where_the_answer_stands(changes: dict[str, object], expected: str) -> None:
    assert text(**changes) == expected


def test_rows_that_are_shown_follow_with_their_answers() -> None:
    shown = (Demonstration({"text": "the worst"}, "terrible"), Demonstration({"text": "of great charm"}, "great"))
    found = text(lead=" It was {{ mask }}.", demonstrations=shown)
    first, second, third = found.split(NEXT)
    assert first == f"never dull It was {GAP}."
    assert (second, third) == ("the worst It was terrible.", "of great charm It was great.")


def test_other_rows_can_be_shown_to_each_row() -> None:
    prompt = GapPrompt.of(Prompt(lead=" It was {{ mask }}."))
    one, other = Demonstration({"text": "ok"}, "good"), Demonstration({"text": "no"}, "bad")
    first, second = prompt.parts([ROW, ROW], [(one,), (other,)])
    assert joined(first).endswith("ok It was good.")
    assert joined(second).endswith("no It was bad.")


def test_a_row_cannot_bring_a_gap_along() -> None:
    sly = Example(id="1", fields={"text": f"never {GAP}dull{NEXT}"})
    assert text(sly) == f"never dull\nAnswer: {GAP}."
    assert text(sly, template="{{ mask }}: {{ text }}") == f"{GAP}: never dull"


@pytest.mark.parametrize("template", ["{{ mask }} {{ mask }}", "{% if not text %}{{ mask }}{% endif %}"])
def test_a_template_has_one_place_for_the_answer(template: str) -> None:
    with pytest.raises(PromptError, match="places for the answer, and one is needed"):
        text(template=template)


def test_a_lead_has_one_place_for_the_answer() -> None:
    with pytest.raises(PromptError, match="`lead` has 2 places for the answer"):
        text(lead="{{ mask }} {{ mask }}")


def test_nothing_leads_to_an_answer_in_the_template() -> None:
    assert GapPrompt.of(Prompt()).lead_alone == f"Answer: {GAP}."
    with pytest.raises(PromptError, match="Use 'none' or 'contextual'"):
        _ = GapPrompt.of(Prompt(template="{{ mask }}: {{ text }}")).lead_alone


def test_a_completed_prompt_has_the_answer_in_its_gap() -> None:
    assert GapPrompt.of(Prompt()).completed(f"ok. Answer: {GAP}.{NEXT}no", "good") == "ok. Answer: good.\n\nno"
