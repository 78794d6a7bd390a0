"""JSON Lines: every line one object, every number in its own digits."""

from pathlib import Path

import pytest

from tunewise.data.loaders import load_table
from tunewise.data.table import Table
from tunewise.errors import DataError


def read(folder: Path, content: str, name: str = "rows.jsonl") -> Table:
    path = folder / name
    path.write_bytes(content.encode())
    return load_table(path)


def test_scalars_become_text_as_they_are_written(tmp_path):
    table = read(
        tmp_path, '{"v": 9007199254740993}\n{"v": 1e5}\n{"v": 1.0}\n{"v": true}\n{"v": null}\n{"v": "007"}\n{}\n'
    )
    assert table.columns["v"] == ["9007199254740993", "1e5", "1.0", "true", None, "007", None]
    assert {type(value) for value in table.columns["v"]} == {str, type(None)}
    assert "both texts and numbers" in table.notes[1]


def test_an_integer_of_5000_digits_is_kept(tmp_path):
    assert read(tmp_path, '{"v": ' + "7" * 5000 + "}\n").columns["v"] == ["7" * 5000]


def test_lines_end_at_line_feeds_only(tmp_path):
    table = read(tmp_path, '{"v": "a\u2028b\u0085c"}\r\n\n{"v": "d"}')
    assert table.columns["v"] == ["a\u2028b\u0085c", "d"]
    assert table.lines == [1, 3]
    assert "1 blank lines" in table.notes[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"v": "cut', r"line 2: not JSON .*cut off"),
        ('{"v": 1, "v": 2}', "line 2: the key 'v' stands twice"),
        ('{"v": {"w": 1, "w": 2}}', "line 2: the key 'w' stands twice"),
        ('{"v": 1} // why', "line 2: not JSON"),
        ("[1, 2]", "line 2: expected one JSON object, found a list"),
        ('"text"', "line 2: expected one JSON object, found a text"),
        ("null", "line 2: expected one JSON object, found null"),
        ('{"v": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: nested too deeply"),
        ('{"v": "\\ud800"}', "line 2: the value of 'v' holds half of a surrogate pair"),
        ('{"v": "a\x01b"}', "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_an_error_that_names_it(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, f'{{"v": "good"}}\n{line}\n')


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [("[1]", "list", "a list"), ('{"a": 1}', "mapping", "an object"), ("NaN", "not finite", "not finite")],
)
def test_values_that_are_no_text_make_only_their_column_unusable(tmp_path, value, kind, said):
    table = read(tmp_path, f'{{"v": "a", "w": "b"}}\n{{"v": {value}, "w": "c"}}\n')
    assert table.columns == {"w": ["b", "c"]}
    assert table.unusable["v"].kind == kind
    assert said in table.unusable["v"].sentence
    assert "line 2" in table.unusable["v"].sentence


def test_a_file_that_is_one_array_is_read_by_rows(tmp_path):
    table = read(tmp_path, '[\n {"v": "a"},\n {"v": "b"}\n]', "rows.json")
    assert table.columns["v"] == ["a", "b"]
    assert table.where(1) == "row 2"
    with pytest.raises(DataError, match=r"row 1: expected a JSON array of objects, found a number"):
        read(tmp_path, "[1]", "rows.json")


def test_no_rows_is_an_error(tmp_path):
    for content in ("", "\n\n", "[]", "{}\n"):
        with pytest.raises(DataError, match=r"no rows"):
            read(tmp_path, content)
