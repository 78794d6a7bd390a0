"""CSV and TSV arrive exactly as written, or not at all."""

from pathlib import Path

import pytest

from tunewise.data.loaders import csv as csv_loader
from tunewise.data.loaders import load_table
from tunewise.data.table import Table
from tunewise.errors import DataError


def read(folder: Path, content: bytes | str, name: str = "rows.csv", **options: str) -> Table:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_table(path, **options)


def test_values_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    values = ["NA", "007", "None", "1e5", "null", "nan", "n/a", "TRUE", "1.0", " x ", "9007199254740993", "=cmd|x"]
    table = read(tmp_path, "text,label\n" + "".join(f"{value},a\n" for value in values))
    assert table.columns["text"] == values


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    table = read(tmp_path, b"\xef\xbb\xbftext,label\na,b\n")
    assert table.names == ("text", "label")
    assert "utf-8 with byte-order mark" in table.notes[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_do_not_matter(tmp_path, end):
    table = read(tmp_path, f"text,label{end}a,b{end}c,d")
    assert table.columns == {"text": ["a", "c"], "label": ["b", "d"]}
    assert table.lines == [2, 3]


def test_mixed_line_ends_and_quoted_breaks_arrive_as_written(tmp_path):
    table = read(tmp_path, 'text,label\r\n"one\r\ntwo",b\nc,d\r"e ""f"", g",h\n')
    assert table.columns["text"] == ["one\r\ntwo", "c", 'e "f", g']
    assert table.lines == [2, 4, 5]
    assert "1 rows hold line breaks inside quotes, the first on line 2" in table.notes[1]


def test_utf16_and_utf32_with_a_mark_are_decoded(tmp_path):
    for encoding in ("utf-16", "utf-32"):
        assert read(tmp_path, "text,label\nä,b\n".encode(encoding)).columns["text"] == ["ä"]


def test_utf16_without_a_mark_is_recognised_by_its_nul_characters(tmp_path):
    content = "text,label\na,b\n".encode("utf-16-le")
    with pytest.raises(DataError, match=r"looks like UTF-16: set `data.encoding: utf-16`"):
        read(tmp_path, content)
    assert read(tmp_path, content, encoding="utf-16-le").columns["text"] == ["a"]


def test_another_encoding_is_an_error_with_the_offset_of_the_byte(tmp_path):
    content = "text,label\nabc,x\ncafé,y\n".encode("cp1252")
    with pytest.raises(DataError, match=r"byte 0xe9 at offset 20 \(about line 3\).*set `data.encoding`"):
        read(tmp_path, content)
    assert read(tmp_path, content, encoding="cp1252").columns["text"] == ["abc", "café"]


def test_an_unknown_encoding_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data.encoding: cannot read with 'utf-99'"):
        read(tmp_path, "text,label\na,b\n", encoding="utf-99")


def test_a_nul_character_is_an_error_that_names_the_line(tmp_path):
    with pytest.raises(DataError, match=r"line 3 holds a NUL character"):
        read(tmp_path, "text,label\na,b\nc\x00,d\n")


@pytest.mark.parametrize(("row", "count"), [("c", 1), ("c,d,EXTRA", 3)])
def test_a_row_of_another_length_is_an_error_with_line_and_counts(tmp_path, row, count):
    with pytest.raises(DataError, match=rf"line 3: {count} values, but the header has 2 columns \(text, label\)"):
        read(tmp_path, f"text,label\na,b\n{row}\ne,f\n")


def test_a_first_row_that_is_too_long_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"line 2: 3 values"):
        read(tmp_path, "text,label\n1,a,EXTRA\n0,b,c\n")


def test_a_column_name_that_stands_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"line 1: the column name 'text' stands more than once"):
        read(tmp_path, "text,text,label\na,b,c\n")


@pytest.mark.parametrize("content", ["", "\n\n", "  \n \n", "text,label\n", "text,label\n\n"])
def test_no_rows_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"no rows"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\na,b\n"open,c\nd,e\n', 3),
        ('text,label\na,b\n"open,c\n"closed",e\n', 3),
        ('text,label\n"two\nlines","open\nx,y\n', 3),
        ('text,label\n"a\nb ""c"" d,e\nf,g\n', 2),
    ],
)
def test_an_unclosed_quote_is_an_error_at_the_line_it_opens_on(tmp_path, content, line):
    with pytest.raises(DataError, match=f"line {line}: a quoted value opens here and is not closed"):
        read(tmp_path, content)


def test_a_field_of_a_megabyte_is_read_and_the_limit_is_put_back(tmp_path):
    import csv

    csv.field_size_limit(131_072)
    table = read(tmp_path, f"text,label\n{'x' * 1_000_000},a\n")
    assert len(table.columns["text"][0] or "") == 1_000_000
    assert csv.field_size_limit() == 131_072


def test_a_field_above_the_limit_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_loader, "MAX_FIELD_CHARACTERS", 100)
    with pytest.raises(DataError, match=r"line 3: a field has more than 100 characters"):
        read(tmp_path, f"text,label\na,b\n{'x' * 101},a\n")


@pytest.mark.parametrize(("mark", "said"), [(";", "semicolon"), ("\t", "tab"), ("|", "pipe"), (",", "comma")])
def test_the_delimiter_is_found_and_noted(tmp_path, mark, said):
    table = read(tmp_path, f'text{mark}label\n"a, b; c"{mark}x\nd{mark}y\n')
    assert table.columns == {"text": ["a, b; c", "d"], "label": ["x", "y"]}
    assert f"delimiter {said}" in table.notes[0]


def test_a_given_delimiter_is_used_and_must_be_one_character(tmp_path):
    assert read(tmp_path, "text^label\na,b^c\n", delimiter="^").columns["text"] == ["a,b"]
    with pytest.raises(DataError, match=r"data.delimiter: expected one character"):
        read(tmp_path, "text,label\na,b\n", delimiter="::")


def test_tsv_is_split_at_tabs_even_with_more_commas(tmp_path):
    assert read(tmp_path, "a,b,c\tlabel\n1,2,3\tx\n", "rows.tsv").names == ("a,b,c", "label")


def test_blank_lines_are_counted(tmp_path):
    table = read(tmp_path, "text,label\n\na,b\n\n")
    assert table.lines == [3]
    assert "2 blank lines" in table.notes[1]


def test_unicode_and_template_marks_pass_untouched(tmp_path):
    values = ["👩‍👩‍👧", "\u202eabc", "e\u0301", "a\u2028b", "a\ufeffb", "{{7*7}}", "<b>"]
    assert read(tmp_path, "text,label\n" + "".join(f"{v},x\n" for v in values)).columns["text"] == values


@pytest.mark.parametrize(
    ("content", "said"), [(b"\x1f\x8babc", "gzip"), (b"PK\x03\x04abc", "Excel"), (b"PAR1abc", "Parquet")]
)
def test_other_kinds_of_file_under_a_wrong_name_are_recognised(tmp_path, content, said):
    with pytest.raises(DataError, match=f"not a text file but .*{said}"):
        read(tmp_path, content)


def test_what_is_no_readable_file_is_an_error_at_once(tmp_path):
    with pytest.raises(DataError, match=r"data.dev: .*nowhere.csv' cannot be read"):
        load_table(tmp_path / "nowhere.csv", role="dev")
    with pytest.raises(DataError, match=r"is a folder that `datasets` did not save"):
        load_table(tmp_path)
    with pytest.raises(DataError, match=r"is a pipe, socket or device"):
        load_table("/dev/zero")
    with pytest.raises(DataError, match="embedded null byte"):
        load_table("a\x00b.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(DataError, match=r"cannot be read"):
        load_table(tmp_path / "loop.csv")
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"none of the known extensions \(.csv, .tsv"):
        load_table(tmp_path / "rows.xlsx")


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\n")
    read_bytes = Path.read_bytes

    def and_append(self: Path) -> bytes:
        raw = read_bytes(self)
        self.write_bytes(raw + b"c,d\n")
        return raw

    monkeypatch.setattr(Path, "read_bytes", and_append)
    with pytest.raises(DataError, match=r"the file changed while it was read"):
        load_table(path)
