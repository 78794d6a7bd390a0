"""Several labels per row: in lists, joined by a separator, or as columns of 0 and 1; a split shares the rare ones."""

import json
from collections import Counter

import pandas as pd
import pytest

from tunewise.config import DataConfig, Task
from tunewise.data.columns import Columns, find_columns
from tunewise.data.load import Data, load_data
from tunewise.data.loaders import load_table
from tunewise.data.rows import to_examples
from tunewise.data.split import split_off
from tunewise.data.targets import separator_in
from tunewise.errors import DataError
from tunewise.types import Example, Prediction


def read(source, **task) -> tuple[Columns, list]:
    table = load_table(source)
    columns = find_columns(table, Task(data=DataConfig(train="x.csv"), **task))
    return columns, [example.target for example in to_examples(table, columns, role="train").examples]


def joined(values: list[str]) -> list[dict[str, str]]:
    return [{"text": f"a text, number {i}", "topics": value} for i, value in enumerate(values)]


def test_a_column_of_lists_is_several_labels_each_once_and_sorted():
    rows = [{"text": "x y", "labels": ["b", "a", "b"]}, {"text": "z", "labels": []}, {"text": "u", "labels": [1]}]
    columns, targets = read(rows)
    assert columns.several
    assert targets == [("a", "b"), (), ("1",)]
    assert "'labels' holds lists: a text may have several labels, or none." in columns.notes


def test_lists_are_read_alike_from_every_format(tmp_path):
    rows = [{"text": "x y", "labels": ["a", "b"]}, {"text": "z", "labels": []}, {"text": "u", "labels": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "rows.parquet")
    for source in (rows, frame, str(tmp_path / "rows.jsonl"), str(tmp_path / "rows.parquet")):
        assert read(source)[1] == [("a", "b"), ()]


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_a_separator_is_found_where_its_parts_come_back_and_that_is_said(separator):
    values = [f"red{separator} blue", "blue", f"green{separator}red", "green"] * 6
    columns, targets = read(joined(values), target="topics")
    assert (columns.separator, targets[:4]) == (separator, [("blue", "red"), ("blue",), ("green", "red"), ("green",)])
    said = f"several labels joined by {separator!r} (detected from values such as 'red{separator} blue'"
    assert said in "\n".join(columns.notes)


def test_label_names_with_a_mark_in_them_stay_whole_and_either_can_be_said():
    values = ["Politics, World", "Arts, Music", "Sport"] * 8
    assert separator_in(values) is None
    assert read(joined(values), target="topics")[1][0] == "Politics, World"
    assert read(joined(values), target="topics", label_separator=",")[1][0] == ("Politics", "World")
    assert read(joined(["a|b", "b", "a|c", "c"] * 6), target="topics", label_separator="")[1][0] == "a|b"


def test_columns_of_marks_are_labels_by_their_names():
    rows = [
        {"text": "x y", "toxic": 1, "insult": 0},
        {"text": "z", "toxic": 0, "insult": 0},
        {"text": "u", "toxic": True, "insult": 1.0},
        {"text": "missing", "toxic": None, "insult": 1},
    ]
    columns, targets = read(rows, target=("toxic", "insult"))
    assert targets == [("toxic",), (), ("insult", "toxic")]
    assert "target: toxic, insult (as the task says)" in columns.notes[0]
    with pytest.raises(DataError, match=r"row 1: 'toxic' is '2'\. Where `target` names several columns"):
        read([{"text": "x y", "toxic": 2, "insult": 0}], target=("toxic", "insult"))
    with pytest.raises(DataError, match=r"no column 'insuld' for `target`. Did you mean 'insult'"):
        read(rows, target=("toxic", "insuld"))


def test_a_separator_for_lists_is_refused():
    with pytest.raises(
        DataError, match=r"`label_separator` is for labels joined in one text, but 'labels' holds lists"
    ):
        read([{"text": "x y", "labels": ["a"]}], label_separator="|")


def test_a_task_file_may_name_one_target_or_several():
    assert Task.from_dict({"train": "x.csv", "target": "a"}).target == "a"
    assert Task.from_dict({"train": "x.csv", "target": ["a", "b"]}).target == ("a", "b")


def test_the_order_in_which_labels_were_written_does_not_change_an_example():
    one, other = (Example(id="1", fields={"text": "x"}, target=target) for target in (("a", "b"), ("ab",)))
    assert one.digest != other.digest
    assert Example(id="1", fields={"text": "x"}, target=()).digest != Example(id="1", fields={"text": "x"}).digest
    first, second = (read([{"text": "x y", "labels": labels}] * 2)[1] for labels in (["a", "b"], ["b", "a"]))
    assert first == second


def test_the_probability_of_an_answer_is_that_of_all_its_labels():
    said = Prediction(text="a", labels=("a",), scores={"a": 0.5, "b": 0.2, "c": 0.0})
    assert said.log_probability == pytest.approx(-0.9162907)  # ln(0.5 * 0.8 * 1)


def tagged(n: int) -> list[Example]:
    """Rows with one common label, one on every third and one on every 25th."""
    rows = []
    for i in range(n):
        labels = ["common", *(["third"] if i % 3 == 0 else []), *(["rare"] if i % 25 == 0 else [])]
        rows.append(Example(id=str(i), fields={"text": f"row {i}"}, target=tuple(sorted(labels)) if i % 7 else ()))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_a_split_shares_every_label_and_the_rows(seed):
    examples = tagged(300)
    _, part = split_off(examples, 0.25, seed=seed, name="dev")
    assert abs(len(part) - 75) <= 3
    whole = Counter(label for example in examples for label in example.labels)
    away = Counter(label for example in part for label in example.labels)
    assert all(abs(away[label] - count / 4) <= 1 for label, count in whole.items() if label != "common")
    assert abs(away["common"] - whole["common"] / 4) <= 3
    again = split_off(examples[::-1], 0.25, seed=seed, name="dev")[1]
    assert {e.id for e in again} == {e.id for e in part}


def test_a_label_with_a_single_row_stays_in_what_is_kept():
    examples = [*tagged(60), Example(id="one", fields={"text": "alone"}, target=("common", "single"))]
    kept, _ = split_off(examples, 0.5, seed=0, name="dev")
    assert "single" in {label for example in kept for label in example.labels}


def load(rows: list, **task) -> Data:
    return load_data(Task.from_dict({"train": rows, **task}))


def test_loaded_labels_are_those_of_all_rows_and_missing_ones_are_named():
    rows = [{"text": f"row {i}", "labels": ["a"] if i % 2 else ["b", "c"]} for i in range(60)]
    rows[0]["labels"] = ["a", "once"]
    data = load(rows)
    assert (data.several, data.ordered, data.labels) == (True, False, ("a", "b", "c", "once"))
    assert any("dev: 1 of 4 labels have no row there: 'once'." in note for note in data.notes)
    assert any("; 4 labels, 1." in note for note in data.notes)


def test_numbers_as_several_labels_are_no_scale():
    data = load([{"text": f"row {i}", "labels": [i % 3, 3]} for i in range(60)])
    assert (data.labels, data.ordered) == (("0", "1", "2", "3"), False)
    with pytest.raises(
        DataError, match=r"several labels per row, for which `order`, `ordinal` and `shots` are not built"
    ):
        load([{"text": f"row {i}", "labels": [i % 3, 3]} for i in range(60)], ordinal=True)


def test_one_set_of_labels_for_all_rows_is_nothing_to_learn():
    with pytest.raises(DataError, match=r"all 40 training rows have the target 'a \| b'; give two or more"):
        load([{"text": f"row {i}", "labels": ["b", "a"]} for i in range(40)])


def test_a_label_that_train_lacks_is_refused():
    train = [{"text": f"row {i}", "labels": ["a"] if i % 2 else ["b", "a"]} for i in range(40)]
    dev = [{"text": f"dev {i}", "labels": ["a", "new"]} for i in range(3)]
    with pytest.raises(DataError, match=r"3 rows have the label 'new', which no training row has"):
        load_data(Task.from_dict({"train": train, "dev": dev}))
