"""CSV and TSV by RFC 4180, strictly: every value exactly as written, every broken row an error."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunewise.data.files import read_text
from tunewise.data.table import Table
from tunewise.errors import DataError

MAX_FIELD_CHARACTERS = 64 * 2**20
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
ROWS_SNIFFED = 50


def load(source: Any, *, encoding: str, delimiter: str | None, role: str) -> Table:
    """The rows of a CSV or TSV file; the delimiter is found when it is not given, and noted.

    Raises:
        DataError: wrong encoding, NUL, duplicate or missing header, a row of another length, a quote left open,
            a field above 64 MB.
    """
    path = Path(source)
    text, used_encoding = read_text(path, encoding=encoding, role=role)
    with _long_fields():
        mark = _checked(delimiter) if delimiter else "\t" if path.suffix.lower() == ".tsv" else _sniff(text)
        header, rows, starts, spanning, blank = _read(text, mark, path.name)
    if not rows:
        raise DataError(f"{path.name}: no rows below the column names {', '.join(header)}.")
    columns: dict[str, list[str | None]] = {
        column: list(values) for column, values in zip(header, zip(*rows, strict=True), strict=True)
    }
    name = DELIMITERS.get(mark, repr(mark))
    notes = [f"{path.name}: {len(rows):,} rows, {len(header)} columns, delimiter {name}, encoding {used_encoding}."]
    if blank:
        notes.append(f"{path.name}: {blank:,} blank lines passed over.")
    if spanning:
        first = spanning[0]
        notes.append(f"{path.name}: {len(spanning):,} rows hold line breaks inside quotes, the first on line {first}.")
    return Table(columns=columns, source=path.name, lines=starts, notes=tuple(notes))


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    # the limit belongs to the whole process, so it is put back
    before = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _checked(delimiter: str) -> str:
    mark = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or mark in '"\r\n ':
        raise DataError(f"data.delimiter: expected one character such as ',' ';' '|' or a tab, got {delimiter!r}.")
    return mark


def _lines(text: str) -> Iterator[str]:
    # ends lines at \n, \r\n and \r alike, and keeps them, so that quoted line breaks arrive as written
    return iter(io.StringIO(text, newline=""))


def _sniff(text: str) -> str:
    """The delimiter that gives the header most columns, preferring one that all first rows agree on."""

    def merit(mark: str) -> tuple[bool, int]:
        widths = []
        try:
            for row in csv.reader(_lines(text[:2_000_000]), delimiter=mark):
                widths.append(len(row))
                if len(widths) > ROWS_SNIFFED:
                    break
        except csv.Error:
            return False, widths[0] if widths else 0
        widths = [width for width in widths if width]
        return widths[0] > 1 and len(set(widths)) == 1, widths[0]

    return max(DELIMITERS, key=merit)


def _read(text: str, mark: str, name: str) -> tuple[list[str], list[list[str]], list[int], list[int], int]:
    """Header, rows, the line each row starts on, those that span lines, and the number of blank lines."""
    reader = csv.reader(_lines(text), delimiter=mark, strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    starts: list[int] = []
    spanning: list[int] = []
    blank = 0
    start = 1
    try:
        for row in reader:
            if not row:
                blank += 1
            elif header is None:
                header = _checked_header(row, name, start)
            elif len(row) != len(header):
                raise DataError(_ragged(name, start, row, header, mark))
            else:
                rows.append(row)
                starts.append(start)
                if reader.line_num > start:
                    spanning.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(_broken(name, text, mark, start, reader.line_num, error)) from error
    if header is None:
        raise DataError(f"{name}: no rows, the file is empty.")
    return header, rows, starts, spanning, blank


def _checked_header(row: Sequence[str], name: str, line: int) -> list[str]:
    twice = sorted({column for column in row if row.count(column) > 1}) if len(set(row)) < len(row) else []
    if twice:
        raise DataError(f"{name}: line {line}: the column name '{twice[0]}' stands more than once; rename one of them.")
    return list(row)


def _ragged(name: str, line: int, row: Sequence[str], header: Sequence[str], mark: str) -> str:
    said = DELIMITERS.get(mark, repr(mark))
    return (
        f"{name}: line {line}: {len(row)} values, but the header has {len(header)} columns "
        f"({', '.join(header)}). A value that holds a {said} must stand in double quotes."
    )


def _broken(name: str, text: str, mark: str, start: int, trouble: int, error: csv.Error) -> str:
    if "field larger" in str(error):
        return f"{name}: line {start}: a field has more than {MAX_FIELD_CHARACTERS:,} characters (64 MB); shorten it."
    line = _opening_line(text, mark, start, trouble)
    return (
        f"{name}: line {line}: a quoted value opens here and is not closed properly (noticed on line {trouble}). "
        "A value that begins with a double quote must end with one, and quotes inside it are doubled."
    )


def _opening_line(text: str, mark: str, start: int, trouble: int) -> int:
    """The line on which the quote opens that the record starting on `start` fails to close."""
    opening, inside, just_closed, at_field_start = start, False, False, True
    for number, line in enumerate(_lines(text), 1):
        if number > trouble:
            break
        for character in line if number >= start else "":
            if character == '"' and inside:
                inside, just_closed = False, True
            elif character == '"' and just_closed:
                inside, just_closed = True, False  # doubled: the same value goes on
            else:
                if character == '"' and at_field_start:
                    inside, opening = True, number
                just_closed = False
            at_field_start = not inside and character in (mark, "\n", "\r")
    return opening
