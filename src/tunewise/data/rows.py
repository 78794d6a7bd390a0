"""Rows of a table become examples; a row that cannot is counted with its reason and its line."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewise.data.conversations import find_questions, read_question
from tunewise.data.pairs import CONVERSATION_INPUT
from tunewise.data.roles import Columns, id_column
from tunewise.data.table import Table, list_places
from tunewise.data.targets import split_labels
from tunewise.data.written import Reader, written_reader
from tunewise.errors import DataError, did_you_mean
from tunewise.types import Example, Target

MISSING_SLICE = "(missing)"
SHOWN_REASONS = 12


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The examples of one file with the ledger of what was read, used and rejected."""

    examples: tuple[Example, ...]
    places: tuple[int, ...]
    """Row of the table that each example came from, from 0."""
    notes: tuple[str, ...]


def to_examples(table: Table, columns: Columns, *, role: str) -> Rows:
    """One example for each row that says what is read and what is wanted; the others are counted in the notes.

    Raises:
        DataError: a column is missing here, no row is left, or two rows have the same id.
    """
    _check_columns(table, columns)
    ids = _ids(table, columns, role)
    rejected: dict[str, list[int]] = defaultdict(list)
    examples: list[Example] = []
    places: list[int] = []
    read = (written_reader if columns.written else _labelled_reader)(table, columns)
    slices = {name: table.columns[name] for name in columns.slices}
    clusters = table.columns[columns.cluster] if columns.cluster else None
    for row in range(len(table)):
        said = read(row)
        if isinstance(said, str):
            rejected[said].append(table.lines[row])
            continue
        cluster = clusters[row] if clusters else None
        example = Example(
            id=ids[row],
            **said,
            slices={name: values[row] or MISSING_SLICE for name, values in slices.items()},
            cluster=None if _is_empty(cluster) else cluster,
        )
        examples.append(example)
        places.append(row)
    ledger = _ledger(table, len(examples), rejected)
    if not examples:
        raise DataError(f"{ledger} No row is left to use.")
    notes = [ledger] if rejected else []
    alone = sum(example.cluster is None for example in examples) if columns.cluster else 0
    if alone:
        notes.append(
            f"{table.source}: {alone:,} rows have no '{columns.cluster}'; each counts as a cluster of its own."
        )
    return Rows(examples=tuple(examples), places=tuple(places), notes=tuple(notes))


def labelled_rows(table: Table, columns: Columns) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The examples of a table that stands alone, and the sentences about its columns and rejected rows.

    Raises:
        DataError: as `to_examples`.
    """
    rows = to_examples(table, columns, role="train")
    return rows.examples, (*columns.notes, *rows.notes)


def example_rows(table: Table, inputs: Sequence[str]) -> tuple[Example, ...]:
    """One example without a target for every row, so that there is an answer for every row.

    Raises:
        DataError: an input column is missing, or a row has no text in it; all such rows are counted.
    """
    columns = Columns(inputs=tuple(inputs), target="", id=id_column(table, inputs))
    for name in inputs:
        if name in table.unusable:
            raise DataError(f"{table.source}: the column '{name}' cannot be used: {table.unusable[name].sentence}.")
        if name not in table.columns:
            raise DataError(f"{table.source}: there is no column '{name}' to read.{did_you_mean(name, table.names)}")
        empty = [line for line, value in zip(table.lines, table.columns[name], strict=True) if _is_empty(value)]
        if empty:
            raise DataError(
                f"{table.source}: {len(empty):,} rows have an empty '{name}' ({list_places(table.unit, empty)}), and "
                "there is nothing to answer. Fill them in or remove them."
            )
    ids = _ids(table, columns, "train")
    return tuple(
        Example(id=ids[row], fields={name: str(table.columns[name][row]) for name in inputs})
        for row in range(len(table))
    )


def question_rows(table: Table) -> tuple[Example, ...]:
    """One conversation without an answer for every row, in any form that training data may have.

    Raises:
        DataError: the rows are no conversations, or some have nothing to answer; all such rows are counted.
    """
    layout = find_questions(table)
    if layout is None:
        raise DataError(
            f"{table.source}: this bundle answers conversations, and there are none here (columns: "
            f"{', '.join(table.names)}). Give `messages`, or another form that conversations to learn from have."
        )
    ids = _ids(table, Columns(inputs=(), target="", id=id_column(table, layout.columns.values())), "train")
    found: list[Example] = []
    rejected: dict[str, list[int]] = {}
    for row in range(len(table)):
        turns = read_question(table, layout, row)
        if isinstance(turns, str):
            rejected.setdefault(turns, []).append(table.lines[row])
            continue
        last = next(turn.content for turn in reversed(turns) if turn.role == "user")
        found.append(Example(id=ids[row], fields={CONVERSATION_INPUT: last}, messages=turns))
    if rejected:
        raise DataError(f"{_ledger(table, len(found), rejected)} Mend or remove them, so that every row has an answer.")
    return tuple(found)


def _labelled_reader(table: Table, columns: Columns) -> Reader:
    """The reader of a table whose targets are labels."""
    texts = [table.columns[name] for name in columns.inputs]
    targets = _targets(table, columns)

    def read(row: int) -> dict[str, Any] | str:
        empty = [name for name, values in zip(columns.inputs, texts, strict=True) if _is_empty(values[row])]
        if empty or targets[row] is None:
            return f"with an empty '{empty[0] if empty else columns.target}'"
        fields = {name: str(values[row]) for name, values in zip(columns.inputs, texts, strict=True)}
        return {"fields": fields, "target": targets[row]}

    return read


TRUE, FALSE = {"1", "1.0", "true"}, {"0", "0.0", "false"}


def _targets(table: Table, columns: Columns) -> list[Target | None]:
    """What each row wants; None where that is missing. An empty list, or 0 in every column, is no label."""
    if columns.targets:
        marks = [_marks(table, name) for name in columns.targets]
        return [
            None
            if any(mark is None for mark in row)
            else tuple(sorted(name for name, mark in zip(columns.targets, row, strict=True) if mark))
            for row in zip(*marks, strict=True)
        ]
    if columns.lists and columns.target in table.lists:
        return [
            None if value is None else tuple(sorted({label for label in value if label.strip()}))
            for value in table.lists[columns.target]
        ]
    values = table.columns[columns.target]
    if columns.separator is None:
        return [None if _is_empty(value) else value for value in values]
    return [None if value is None or not value.strip() else split_labels(value, columns.separator) for value in values]


def _marks(table: Table, name: str) -> list[bool | None]:
    """Whether the label of a column of 0 and 1 is there, by row.

    Raises:
        DataError: a value is neither.
    """
    marks: list[bool | None] = []
    for row, value in enumerate(table.columns[name]):
        plain = (value or "").strip().casefold()
        if plain and plain not in TRUE | FALSE:
            raise DataError(
                f"{table.source}: {table.where(row)}: '{name}' is {value!r}. Where `target` names several columns, "
                "each holds 0 or 1 for its label; for one column of labels name only that one, and where the "
                "columns hold texts that are to be written, set `kind: generate`."
            )
        marks.append(plain in TRUE if plain else None)
    return marks


def _check_columns(table: Table, columns: Columns) -> None:
    cluster = (columns.cluster,) if columns.cluster else ()
    # texts that are written, and what they are written from, are checked by their reader
    read = () if columns.written else (*columns.inputs, *(columns.targets or (columns.target,)))
    for name in (*read, *columns.slices, *cluster):
        if columns.lists and name == columns.target:
            if name not in table.lists and name in table.names:
                raise DataError(f"{table.source}: '{name}' should hold lists of labels, as in the training data.")
            if name in table.lists:
                continue
        if name in table.unusable:
            raise DataError(f"{table.source}: the column '{name}' cannot be used: {table.unusable[name].sentence}.")
        if name not in table.columns:
            offer = did_you_mean(name, table.names)
            raise DataError(f"{table.source}: there is no column '{name}', which the training data has.{offer}")


def _is_empty(value: str | None) -> bool:
    return value is None or not value.strip()


def _ids(table: Table, columns: Columns, role: str) -> list[str]:
    """The id column's values, else the row's number from 1, with the role before it outside the training data."""
    if columns.id is None or columns.id not in table.columns:
        start = "" if role == "train" else f"{role}:"
        return [f"{start}{number}" for number in range(1, len(table) + 1)]
    seen: dict[str, int] = {}
    for row, value in enumerate(table.columns[columns.id]):
        if value is None or not value.strip():
            raise DataError(f"{table.source}: {table.where(row)}: '{columns.id}' is empty. Every row needs its own id.")
        if value in seen:
            raise DataError(
                f"{table.source}: {table.where(row)}: the {columns.id} '{value}' is already that of "
                f"{table.where(seen[value])}. Ids must differ; rename the column if it is not an id."
            )
        seen[value] = row
    return list(seen)


def _ledger(table: Table, used: int, rejected: dict[str, list[int]]) -> str:
    lost = sum(map(len, rejected.values()))
    shown = list(rejected.items())[:SHOWN_REASONS]
    reasons = ", ".join(f"{len(lines):,} {reason} ({list_places(table.unit, lines)})" for reason, lines in shown)
    if len(rejected) > len(shown):
        reasons += f", {sum(map(len, rejected.values())) - sum(len(lines) for _, lines in shown):,} for other reasons"
    return f"{table.source}: {len(table):,} rows read, {used:,} used, {lost:,} rejected" + (
        f": {reasons}." if lost else "."
    )
