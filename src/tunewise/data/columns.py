"""Which columns are read, which is wanted, and which only travel along."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunewise.config import Task
from tunewise.data.table import Table
from tunewise.data.targets import refuse_unbuilt
from tunewise.errors import DataError, did_you_mean

PAIRS = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("claim", "evidence"),
)
INPUTS = (
    *("text", "sentence", "message", "utterance", "query", "content", "body", "review", "comment", "tweet", "sms"),
    *("question", "phrase", "document", "description", "email", "post", "headline", "title", "input", "prompt"),
)
TARGETS = (
    *("label_text", "label_name", "label", "labels", "intent", "category", "class", "sentiment", "target", "topic"),
    *("emotion", "polarity", "gold_label", "gold", "tag", "y"),
)
IDS = ("id", "idx", "uid", "guid", "uuid", "example_id", "row_id")
MAX_CLASSES = 200


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The part each named column plays; columns not named here are not used."""

    inputs: tuple[str, ...]
    target: str
    slices: tuple[str, ...] = ()
    cluster: str | None = None
    id: str | None = None
    split: str | None = None
    """A column that says which rows are train, dev and held_out."""
    notes: tuple[str, ...] = ()
    """What was detected, in sentences for printing."""


def find_columns(table: Table, task: Task) -> Columns:
    """The columns as the task names them; what it leaves open is detected, and said in the notes.

    Raises:
        DataError: a named column is not there, none can be recognised or several could be meant, or the target is of
            a kind that is not built.
    """
    for role, names in (("input", task.input or ()), ("slices", task.slices)):
        _check_there(table, names, role)
    _check_there(table, [task.target] if task.target else [], "target")
    _check_there(table, [task.cluster] if task.cluster else [], "cluster")
    travelling = {*task.slices, *([task.cluster] if task.cluster else [])}
    named = {*travelling, *(task.input or ()), *([task.target] if task.target else [])}
    identity = id_column(table, named)
    split = _named_like(table, ("split",), named)
    taken = travelling | {name for name in (identity, split) if name}
    refuse_unbuilt(table, task.target)
    inputs = task.input or _detect_inputs(table, named | taken)
    target = task.target or _detect_target(table, {*inputs, *taken})
    _check_roles(table, inputs, target)
    refuse_unbuilt(table, target)
    for name in (*inputs, target, *taken):
        _check_usable(table, name)
    return Columns(
        inputs=inputs,
        target=target,
        slices=task.slices,
        cluster=task.cluster,
        id=identity,
        split=split,
        notes=_notes(table, task, inputs, target, identity),
    )


def id_column(table: Table, taken: Iterable[str]) -> str | None:
    """The column whose name says that it holds ids, or None."""
    return _named_like(table, IDS, set(taken))


def _check_there(table: Table, names: Iterable[str], role: str) -> None:
    for name in names:
        if name not in table.names:
            raise DataError(
                f"{table.source}: there is no column '{name}' for `{role}`.{did_you_mean(name, table.names)}"
            )


def _check_usable(table: Table, name: str) -> None:
    if name in table.unusable:
        raise DataError(
            f"{table.source}: the column '{name}' cannot be used: {table.unusable[name].sentence}. "
            "Every value must be a text, a number or empty."
        )


def _check_roles(table: Table, inputs: Sequence[str], target: str) -> None:
    if target in inputs:
        raise DataError(f"{table.source}: '{target}' is named both as `input` and as `target`; they must differ.")
    if len(inputs) > 2 or len(set(inputs)) < len(inputs):
        raise DataError(
            f"{table.source}: `input` takes one column or two different ones for a pair, got {', '.join(inputs)}. "
            "Join more texts into one column."
        )


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _named_like(table: Table, known: Iterable[str], taken: set[str]) -> str | None:
    """The first column, in the order of `known`, whose name says what it is."""
    free = {_plain(name): name for name in table.names if name not in taken}
    return next((free[name] for name in known if name in free), None)


def _detect_inputs(table: Table, taken: set[str]) -> tuple[str, ...]:
    for first, second in PAIRS:
        pair = _named_like(table, [first], taken), _named_like(table, [second], taken)
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    found = _named_like(table, INPUTS, taken)
    if found is not None:
        return (found,)
    # no name says it: the column of the longest texts that are mostly different
    label = _named_like(table, TARGETS, taken)
    wordy = {
        name: sum(map(len, values)) / len(values)
        for name in table.columns
        if name not in taken and name != label and (values := _present(table, name)) and _is_wordy(values)
    }
    if not wordy:
        raise DataError(
            f"{table.source}: no column of texts was recognised among {', '.join(table.names)}. "
            "Name it with `input`. The first line of a CSV file must hold the column names."
        )
    return (max(wordy, key=lambda name: wordy[name]),)


def _detect_target(table: Table, taken: set[str]) -> str:
    found = _named_like(table, TARGETS, taken)
    if found is not None:
        return found
    few = [
        name
        for name in table.columns
        if name not in taken and 2 <= len(set(values := _present(table, name))) <= min(MAX_CLASSES, len(values) // 2)
    ]
    if len(few) == 1:
        return few[0]
    other = [name for name in table.names if name not in taken]
    meant = f"several could be meant: {', '.join(few)}" if few else f"none of {', '.join(other) or 'no columns'} fits"
    raise DataError(f"{table.source}: which column holds the labels? {meant}. Name it with `target`.")


def _present(table: Table, name: str) -> list[str]:
    return [value for value in table.columns[name] if value and value.strip()]


def _is_wordy(values: Sequence[str]) -> bool:
    with_space = sum(" " in value.strip() for value in values)
    return with_space > len(values) / 2 and len(set(values)) > len(values) / 2


def _notes(table: Table, task: Task, inputs: Sequence[str], target: str, identity: str | None) -> tuple[str, ...]:
    def how(named: bool) -> str:
        return "as the task says" if named else "detected"

    notes = [
        f"input: {' and '.join(inputs)} ({how(task.input is not None)}); target: {target} ({how(bool(task.target))})"
        + (f"; ids: {identity}." if identity else "; rows are numbered.")
    ]
    if task.target is None:
        also = [n for n in table.columns if n not in (target, *inputs, *task.slices) and _plain(n) in TARGETS]
        notes += [f"the column '{name}' could be the target too; set `target: {name}` if it is." for name in also]
    used = {*inputs, target, *task.slices, task.cluster, identity}
    unused = [name for name in table.names if name not in used and _plain(name) != "split"]
    if unused:
        notes.append(f"columns not used: {', '.join(unused[:20])}{' ...' if len(unused) > 20 else ''}.")
    return tuple(notes)
