"""Columns are recognised by name, then by content, and what is not built is refused in a sentence."""

import pytest

from tunewise.config import DataConfig, Task
from tunewise.data.columns import Columns, find_columns
from tunewise.data.loaders import load_table
from tunewise.data.targets import kind_of_target
from tunewise.errors import DataError


def find(rows: dict[str, list], **task) -> Columns:
    names = list(rows)
    table = load_table([dict(zip(names, values, strict=True)) for values in zip(*rows.values(), strict=True)])
    return find_columns(table, Task(data=DataConfig(train="x.csv"), **task))


LABELS = ["a", "b"]


@pytest.mark.parametrize(
    ("names", "inputs", "target"),
    [
        (["text", "label"], ("text",), "label"),
        (["Text ", "Label"], ("Text ",), "Label"),
        (["message", "intent"], ("message",), "intent"),
        (["text_a", "text_b", "class"], ("text_a", "text_b"), "class"),
        (["sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label"),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis"), "label"),
        (["question", "sentence", "label"], ("question", "sentence"), "label"),
        (["review", "sentiment"], ("review",), "sentiment"),
        (["text", "label", "label_text"], ("text",), "label_text"),
    ],
)
def test_columns_are_recognised_by_name(names, inputs, target):
    found = find({name: ["a b", "c d"] for name in names})
    assert (found.inputs, found.target) == (inputs, target)
    assert f"input: {' and '.join(inputs)} (detected); target: {target} (detected)" in found.notes[0]


def test_unknown_names_are_recognised_by_content():
    found = find({"said": [f"number {i} of many" for i in range(8)], "meant": LABELS * 4, "n": list(range(8))})
    assert (found.inputs, found.target) == (("said",), "meant")
    assert "columns not used: n." in found.notes


def test_ids_and_splits_are_recognised_and_other_targets_mentioned():
    found = find({"id": [1, 2], "text": ["x y", "z"], "label": LABELS, "topic": LABELS, "split": ["train", "dev"]})
    assert (found.id, found.split) == ("id", "split")
    assert "the column 'topic' could be the target too; set `target: topic` if it is." in found.notes


def test_two_columns_that_may_be_the_target_are_a_question():
    rows = {"text": [f"t{i}" for i in range(8)], "colour": LABELS * 4, "shape": LABELS * 4}
    with pytest.raises(DataError, match=r"several could be meant: colour, shape. Name it with `target`"):
        find(rows)
    assert find(rows, target="shape").target == "shape"
    assert find(rows, slices=("colour",)).target == "shape"


def test_a_column_that_is_not_there_is_answered_with_the_closest():
    rows = {"label ": LABELS, "text": ["x", "y"]}
    with pytest.raises(DataError, match=r"no column 'label' for `target`. Did you mean 'label '\?"):
        find(rows, target="label")
    with pytest.raises(DataError, match=r"no column 'txt' for `input`. Did you mean 'text'\?"):
        find(rows, input=("txt",))
    with pytest.raises(DataError, match=r"for `slices`"):
        find(rows, slices=("region",))
    with pytest.raises(DataError, match=r"for `cluster`"):
        find(rows, cluster="region")


def test_nothing_recognisable_is_an_error_that_lists_the_columns():
    with pytest.raises(DataError, match=r"no column of texts was recognised among a, b"):
        find({"a": ["1", "2"], "b": ["3", "4"]})


def test_roles_must_not_clash():
    rows = {"text": ["x", "y"], "more": ["u", "v"], "third": ["r", "s"], "label": LABELS}
    with pytest.raises(DataError, match=r"both as `input` and as `target`"):
        find(rows, input=("label",), target="label")
    with pytest.raises(DataError, match=r"one column or two different ones"):
        find(rows, input=("text", "more", "third"))


def test_a_nested_column_is_an_error_only_where_it_is_used():
    rows = {"text": ["x", "y"], "label": LABELS, "meta": [{"k": 1}, {}]}
    assert find(rows).target == "label"
    with pytest.raises(DataError, match=r"the column 'meta' cannot be used: row 1 holds an object"):
        find(rows, input=("meta",))
    with pytest.raises(DataError, match=r"label that is not a finite number: row 2"):
        find({"text": ["x", "y"], "label": [1.0, float("nan")]})


def test_integer_labels_with_few_values_are_classes():
    assert kind_of_target(["0", "1", "2"] * 20) is None
    assert kind_of_target(["1.0", "0.0"] * 20) is None
    assert kind_of_target([str(i) for i in range(1, 6)] * 3) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (['["a"]', '["a", "b"]'] * 8, "lists written as text"),
        ([str(i / 7) for i in range(60)], "numbers"),
        ([str(i) for i in range(60)], "numbers"),
        (["0.0", "1.5", "2.25", "3.1", "4.7"], "numbers"),
        (["O O B-PER I-PER", "O B-LOC"] * 8, "entities"),
        ([f"an answer {i}" for i in range(60)], "free texts"),
    ],
)
def test_targets_that_are_not_built_are_recognised(values, said):
    assert said in (kind_of_target(values) or "one label per row")


@pytest.mark.parametrize(
    "values",
    [["Sci/Tech", "World"] * 20, ["Politics, World", "Arts, Music", "Sport"] * 10, ["very positive", "ok"] * 20],
)
def test_labels_with_marks_in_their_names_are_still_labels(values):
    assert kind_of_target(values) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"text": ["x", "y"], "labels": [[["a"]], [["a", "b"]]]}, "lists of something other than labels"),
        ({"tokens": [["x"], ["y"]], "ner_tags": [[0], [1]]}, "entities"),
        ({"question": ["x", "y"], "context": ["u", "v"], "answers": [{"text": []}, {}]}, "spans"),
        ({"text": ["x", "y"], "start": [0, 1], "end": [1, 2]}, "spans"),
    ],
)
def test_a_table_with_such_a_target_is_refused_in_one_sentence(rows, said):
    with pytest.raises(DataError, match=rf"looks like {said}.*which is not built yet"):
        find(rows)
