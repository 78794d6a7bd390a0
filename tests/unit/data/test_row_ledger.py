"""Rows for scoring are counted when they cannot be used; rows for answering must all be usable."""

import pytest

from tunewise.data.columns import Columns
from tunewise.data.loaders import load_table
from tunewise.data.rows import example_rows, labelled_rows
from tunewise.errors import DataError

ROWS = [{"uid": "x", "text": "one", "label": "a"}, {"uid": "y", "text": "two", "label": None}]


def test_rows_to_score_keep_their_number_and_say_what_was_rejected():
    examples, notes = labelled_rows(load_table(ROWS), Columns(inputs=("text",), target="label", notes=("seen.",)))
    assert [(e.id, e.target) for e in examples] == [("1", "a")]
    assert notes[0] == "seen."
    assert notes[1].endswith("2 rows read, 1 used, 1 rejected: 1 with an empty 'label' (row 2).")


def test_rows_to_answer_need_no_label_and_keep_their_ids():
    examples = example_rows(load_table(ROWS), ["text"])
    assert [(e.id, dict(e.fields), e.target) for e in examples] == [
        ("x", {"text": "one"}, None),
        ("y", {"text": "two"}, None),
    ]


def test_a_row_without_text_cannot_be_answered():
    with pytest.raises(DataError, match=r"1 rows have an empty 'label' \(row 2\)"):
        example_rows(load_table(ROWS), ["label"])
    with pytest.raises(DataError, match=r"no column 'txt' to read. Did you mean 'text'\?"):
        example_rows(load_table(ROWS), ["txt"])
    with pytest.raises(DataError, match=r"'meta' cannot be used: row 1 holds an object"):
        example_rows(load_table([{"meta": {}}, {"meta": {}, "text": "x"}]), ["meta"])
