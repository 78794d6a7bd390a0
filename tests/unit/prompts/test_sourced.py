"""PromptSource templates as prompts of a task: the input side asks, the target side says each label's words."""

import json
import os
from pathlib import Path

import pytest

from tunewise.errors import PromptError
from tunewise.prompts.prompt import Demonstration, Prompt, joined
from tunewise.prompts.promptsource import PromptSourceTemplate, load_templates
from tunewise.prompts.row import Row
from tunewise.prompts.sourced import UNKNOWN, Source, named_template, source_of_labels, source_of_texts

SHARED = Path(os.environ.get("TUNEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
ROWS = [Row(str(i), {"text": text}) for i, text in enumerate(["never dull", "the worst film", "ok"])]


def template(jinja: str, choices: str | None = "bad ||| good") -> PromptSourceTemplate:
    return PromptSourceTemplate(id="t", name="own", jinja=jinja, answer_choices=choices)


ASKED = template("How is {{text}}? ||| {{answer_choices[label]}}")


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        (("0", "1"), None),
        (("1", "2"), None),
        (("Bad", "GOOD"), None),
        (("neg", "pos"), {"neg": "bad", "pos": "good"}),
    ],
)
def test_labels_are_answers_by_number_by_name_or_as_stated(labels, answers) -> None:
    source, words = source_of_labels(ASKED, labels, ROWS, answers=answers)
    assert words == dict(zip(labels, ("bad", "good"), strict=True))
    assert source.blocks(ROWS) == ["How is never dull?", "How is the worst film?", "How is ok?"]


KNOWING = template("How is {{text}}? ||| {{ answer_choices[0] if label == 'neg' else answer_choices[1] }}")


def test_a_template_that_knows_the_labels_by_their_text_needs_nothing_said() -> None:
    source, words = source_of_labels(KNOWING, ("neg", "pos"), ROWS)
    assert words == {"neg": "bad", "pos": "good"}
    assert source.blocks(ROWS[:1]) == ["How is never dull?"]


def test_ten_numbers_go_by_their_value_not_by_their_spelling() -> None:
    ten = template("{{text}} ||| {{answer_choices[label]}}", " ||| ".join(f"w{i}" for i in range(11)))
    _, words = source_of_labels(ten, tuple(map(str, sorted(range(11), key=str))), ROWS)
    assert words["10"] == "w10"
    assert words["2"] == "w2"


def test_labels_without_answers_are_the_field_itself() -> None:
    source, words = source_of_labels(template("{{text}} ||| It was {{label | lower}}.", None), ("Bad", "Good"), ROWS)
    assert words == {"Bad": "It was bad.", "Good": "It was good."}
    assert source.blocks(ROWS[:1]) == ["never dull"]


def test_a_target_side_with_more_than_the_label_is_said_whole() -> None:
    _, words = source_of_labels(template("{{text}} ||| The film\nis {{answer_choices[label]}}"), ("0", "1"), ROWS)
    assert words == {"0": "The film is bad", "1": "The film is good"}


@pytest.mark.parametrize(
    ("own", "labels", "answers", "sentence"),
    [
        (ASKED, ("neg", "pos"), None, r"own: which of its answers \(bad, good\) stands for which label \(neg, pos\)"),
        (ASKED, ("good", "pos"), None, "cannot be told"),
        (KNOWING, ("minus", "plus"), None, "cannot be told"),
        (
            KNOWING,
            ("neg", "pos"),
            {"neg": "bad", "pos": "good"},
            "says 'good' for the label 'neg', and `answers` wants",
        ),
        (ASKED, ("neg", "pos"), {"neg": "bad"}, "`answers` has nothing for the label 'pos'. Name one of bad, good"),
        (ASKED, ("neg", "pos"), {"neg": "bda", "pos": "good"}, "own has no answer 'bda'.*bad"),
        (ASKED, ("neg", "pos"), {"nge": "bad"}, "names a label 'nge'.*neg"),
        (template("{{text}} ||| {{label}}", None), ("a", "b"), {"a": "bad"}, "`answers` is given, and own has none"),
        (
            template("{{text}} is {{label}} ||| {{answer_choices[label]}}"),
            ("0", "1"),
            None,
            "depends on the row's target",
        ),
        (template("{{text}} ||| {{text}} {{label}}"), ("0", "1"), None, "says other words for the label '0' in other"),
        (template("{{txet}} ||| {{label}}"), ("0", "1"), None, "there is no field 'txet'.*text"),
        (template("{% if label == 7 %}{{text}} ||| x{% endif %}"), ("0", "1"), None, "makes no prompt of row '0'"),
    ],
)
def test_a_template_that_cannot_be_asked_by_says_why(own, labels, answers, sentence) -> None:
    with pytest.raises(PromptError, match=sentence):
        source_of_labels(own, labels, ROWS, target="label", answers=answers)


def test_draws_are_by_what_a_row_holds_not_by_where_it_stands() -> None:
    drawn = template("{{ range(1000) | choice }} {{text}} ||| {{answer_choices[label]}}")
    source = Source.of(drawn, {"label": 0}, seed=3)
    forward = source.blocks(ROWS)
    renamed = source.blocks([Row("x", ROWS[1].fields), Row("y", ROWS[0].fields)])
    assert renamed == [forward[1], forward[0]]
    assert len({text.split()[0] for text in forward}) == 3
    assert Source.of(drawn, {"label": 0}, seed=4).blocks(ROWS) != forward


def test_texts_are_asked_for_without_being_known() -> None:
    own = template("Say it shorter: {{text}} ||| {{summary}}", None)
    source = source_of_texts(own, ROWS, ["fun", "bad", "so"], target="summary")
    assert source.unknown == {"summary": UNKNOWN}
    assert source.blocks(ROWS[:1]) == ["Say it shorter: never dull"]


@pytest.mark.parametrize(
    ("jinja", "sentence"),
    [
        ("{{text}} ({{summary | length}}) ||| {{summary}}", "depends on the row's target"),
        ("{{text}} ||| Shorter: {{summary}}", r"its target side is 'Shorter: fun', and the target is 'fun'"),
    ],
)
def test_a_template_of_texts_that_would_not_measure_what_is_written_is_refused(jinja, sentence) -> None:
    with pytest.raises(PromptError, match=sentence):
        source_of_texts(template(jinja, None), ROWS, ["fun", "bad", "so"], target="summary")


def test_the_prompt_goes_on_after_the_input_side_and_comes_back_from_json() -> None:
    source, words = source_of_labels(ASKED, ("0", "1"), ROWS)
    shown = (Demonstration({"text": "a bore"}, "bad"),)
    prompt = Prompt(instruction="Judge.", source=source, lead="", words=words, demonstrations=shown)
    (parts, *_) = prompt.parts(ROWS)
    assert joined(parts) + prompt.answer("good") == "Judge.\n\nHow is a bore? bad\n\nHow is never dull? good"
    again = Prompt.from_plain(json.loads(json.dumps(prompt.plain())))
    assert again.digest == prompt.digest
    assert again.parts(ROWS) == prompt.parts(ROWS)
    other = Source.of(ASKED, {"label": 0}, seed=9)
    assert Prompt(source=other, lead="").digest != Prompt(source=source, lead="").digest


def test_an_unknown_template_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    one = "answer_choices: null\n    id: {0}\n    jinja: '{{{{text}}}} ||| {{{{label}}}}'\n    name: {0}\n"
    path.write_text(
        "dataset: own\ntemplates:\n" + "".join(f"  {n}: !Template\n    {one.format(n)}" for n in ("ask_it", "say_it")),
        encoding="utf-8",
    )
    assert named_template(path, "say_it").name == "say_it"
    with pytest.raises(PromptError, match=r"there is no template 'ask_ti'.*'ask_it'"):
        named_template(path, "ask_ti")
    with pytest.raises(PromptError, match=r"holds 2 templates. Say which under `prompt`: `name: ask_it`"):
        named_template(path, None)


@real
@pytest.mark.parametrize(
    ("file", "data", "columns", "target", "labels"),
    [
        ("ag_news.yaml", "ag_news/test.jsonl", {"text": "text"}, "label", ("0", "1", "2", "3")),
        ("glue__rte.yaml", "rte", {"sentence1": "premise", "sentence2": "hypothesis"}, "label", ("0", "1")),
    ],
)
def test_real_templates_ask_as_promptsource_renders_them(file, data, columns, target, labels) -> None:
    lines = [line for line in _lines(SHARED / data)][:60]
    rows = [Row(str(i), {name: line[own] for name, own in columns.items()}) for i, line in enumerate(lines)]
    for own in load_templates(SHARED / "promptsource_templates" / file):
        if "choice" in own.jinja.replace("answer_choices", ""):
            continue
        source, words = source_of_labels(own, labels, rows[:3], target=target)
        whole = [Row(row.id, {**row.fields, target: i % len(labels)}) for i, row in enumerate(rows)]
        expected = own.render(whole)
        assert source.blocks(rows) == [each.input for each in expected if each is not None]
        for i, each in enumerate(expected):
            assert each is not None
            assert words[labels[i % len(labels)]] == " ".join(each.target.split())


def _lines(path: Path) -> list[dict[str, str]]:
    path = next(iter(sorted(path.glob("*.jsonl")))) if path.is_dir() else path
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
