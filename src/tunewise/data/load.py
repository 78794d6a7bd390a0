"""From a task to its examples: read, recognise, count what cannot be used, split, and seal held_out."""

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.config import Task
from tunewise.data.columns import MAX_CLASSES, Columns, find_columns
from tunewise.data.files import digest_of_path, rows_by_size
from tunewise.data.loaders import format_of, load_table
from tunewise.data.normal import look_alike, look_alike_sentence
from tunewise.data.order import ordered
from tunewise.data.references import apart, said_apart, said_together, together
from tunewise.data.rows import Rows, to_examples
from tunewise.data.sealed import Sealed
from tunewise.data.split import content_digest, few_rows, few_shots, split_off, strata_of
from tunewise.data.table import SHOWN_LINES, Table
from tunewise.errors import DataError
from tunewise.types import Example, Kind, target_text

SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev"),
    **dict.fromkeys(("held_out", "test", "heldout", "held-out"), "held_out"),
}
Examples = tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of a run in their three parts, and everything that was decided about them."""

    train: Examples
    dev: Examples
    held_out: Sealed
    labels: tuple[str, ...]
    """Names of the classes: from the lowest to the highest where they have an order, else sorted; none where texts are
    to be written."""
    columns: Columns
    notes: tuple[str, ...]
    """Sentences to print: what was found, detected, rejected and split."""
    fingerprint: str
    """sha256 of train and dev in their order: ids, content, slices and clusters."""
    ordered: bool = False
    """Whether the labels have an order, so that an answer can be nearly right."""
    several: bool = False
    """Whether a text may have several labels, or none; targets are tuples then."""
    own_dev: bool = False
    """Whether dev was given, rather than split off train."""
    kind: Kind = "classify"

    @property
    def expected_held_out(self) -> int:
        """Rows of held_out, or, of a file that is still sealed, about how many; half as many as there are others.

        Of texts to be written, rows with the same input are one.
        """
        known = self.held_out.n or self.held_out.about
        if known:
            return known
        train = together(self.train) if self.kind == "generate" else self.train
        return (len(train) + len(self.dev)) // 2


def load_data(task: Task) -> Data:
    """The task's examples, split and checked; held_out stays sealed.

    Raises:
        DataError: a source cannot be read or used, there are fewer than two classes, or dev has a label train lacks.
    """
    _check_sources(task)
    table = _load(task, "train")
    columns = find_columns(table, task)
    rows = to_examples(table, columns, role="train")
    parts, notes = _parts(table, columns, rows)
    notes = [*table.notes, *columns.notes, *rows.notes, *notes]
    _check_not_alike(table, columns, parts["train"])
    if columns.several and (task.order is not None or task.ordinal or task.shots is not None):
        raise DataError(
            f"{table.source}: '{columns.target}' holds several labels per row, for which `order`, `ordinal` and "
            "`shots` are not built. Leave them out, or name a column of one label per row."
        )
    kept, held_out = _held_out(task, columns, parts, notes)
    if task.shots is not None:
        kept = _shots(task, kept, parts, notes)
    train, dev = _dev(task, columns, parts, kept, notes)
    if task.kind == "generate":
        return _to_write(task, table, columns, train, dev, held_out, notes, own_dev=_own_dev(task, parts))
    labels = tuple(sorted({label for example in train for label in example.labels}))
    order, said = (None, None) if columns.several else ordered(labels, task)
    labels = order or labels
    notes += [said] if said else []
    _check_labels(train, dev, labels, notes)
    seal = held_out or _sealed_source(task, columns, labels, len(table))
    classes = f"{len(labels)} labels, {_labels_per_row(train)} a row" if columns.several else f"{len(labels)} classes"
    notes.append(f"{_counts(train, dev, seal)}; {classes}.")
    return Data(
        train=train,
        dev=dev,
        held_out=seal,
        labels=labels,
        columns=columns,
        notes=tuple(notes),
        fingerprint=_digest_in_order([*train, *dev]),
        ordered=order is not None,
        several=columns.several,
        own_dev=_own_dev(task, parts),
    )


def _to_write(
    task: Task,
    table: Table,
    columns: Columns,
    train: Examples,
    dev: Examples,
    held_out: Sealed | None,
    notes: list[str],
    *,
    own_dev: bool,
) -> Data:
    """The same for texts to be written: every right answer is learnt from, and dev has one row for each input."""
    rows, train = train, apart(train)
    inputs, dev = dev, together(dev)
    # where several rows of train have one input, so have those of held_out
    seal = held_out or _sealed_source(task, columns, None, round(len(table) * len(together(rows)) / len(rows)))
    notes += [*said_apart("train", rows, train), *said_together("dev", inputs, dev), *_few_targets(train)]
    notes.append(f"{_counts(train, dev, seal)}; texts to be written.")
    return Data(
        train=train,
        dev=dev,
        held_out=seal,
        labels=(),
        columns=columns,
        notes=tuple(notes),
        fingerprint=_digest_in_order([*train, *dev]),
        own_dev=own_dev,
        kind="generate",
    )


def _few_targets(train: Examples) -> list[str]:
    """A sentence where the texts to be written look like labels."""
    different = len({example.target for example in train})
    if different > min(MAX_CLASSES, len(train) // 10):
        return []
    return [
        f"the targets of {len(train):,} train rows are {different:,} different texts; `kind: classify` would choose "
        "among them."
    ]


def _own_dev(task: Task, parts: dict[str, Examples]) -> bool:
    return task.shots is None and (task.data.dev is not None or "dev" in parts)


def _counts(train: Examples, dev: Examples, seal: Sealed) -> str:
    sealed = "sealed" if seal.n is None else f"{seal.n:,}"
    return f"train {len(train):,} rows, dev {len(dev):,}, held_out {sealed}"


def _check_not_alike(table: Table, columns: Columns, train: Examples) -> None:
    """Raises DataError where there is nothing to tell apart."""
    targets = {text for example in train for text in (example.target, *example.references)}
    if len(targets) < 2:
        raise DataError(
            f"{table.source}: all {len(train):,} training rows have the target {target_text(targets.pop())!r}; "
            "give two or more."
        )


def _labels_per_row(train: Examples) -> str:
    return f"{sum(len(example.labels) for example in train) / len(train):.2f}"


def _digest_in_order(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.id, example.digest, sorted(example.slices.items()), example.cluster)).encode())
    return digest.hexdigest()


def _load(task: Task, role: str) -> Table:
    source = getattr(task.data, role)
    return load_table(source, encoding=task.data.encoding, delimiter=task.data.delimiter, role=role)


def _check_sources(task: Task) -> None:
    """Every source is there before any is read, and no file is two parts."""
    seen: dict[str, str] = {}
    for role in ("train", "dev", "held_out"):
        source = getattr(task.data, role)
        if source is None or isinstance(source, Table):
            continue
        format_of(source, role=role)
        if not isinstance(source, (str, Path)) or str(source).startswith("hub:"):
            continue
        path = str(Path(source).resolve())
        if path in seen and Path(path).is_file():
            raise DataError(
                f"data.{role}: {Path(path).name} is given as data.{seen[path]} too. Leave `{role}` out to have it "
                "split off, or name another file."
            )
        seen[path] = role


def _parts(table: Table, columns: Columns, rows: Rows) -> tuple[dict[str, Examples], list[str]]:
    """The rows by the part that the split column puts them in; all are train without one."""
    values = table.columns.get(columns.split) if columns.split else None
    if values is None:
        return {"train": rows.examples}, []
    roles = [SPLIT_VALUES.get((value or "").strip().casefold()) for value in values]
    unknown = [row for row, role in enumerate(roles) if role is None]
    if len(unknown) == len(roles):
        return {"train": rows.examples}, [f"the column '{columns.split}' names no train, dev or test rows; not used."]
    if unknown:
        raise DataError(
            f"{table.source}: {table.where(unknown[0])}: '{columns.split}' is {values[unknown[0]]!r}; expected train, "
            "dev (or validation) or held_out (or test)."
        )
    parts: dict[str, list[Example]] = defaultdict(list)
    for example, row in zip(rows.examples, rows.places, strict=True):
        parts[str(roles[row])].append(example)
    if "train" not in parts:
        raise DataError(f"{table.source}: the column '{columns.split}' marks no usable row as train.")
    counts = ", ".join(f"{len(parts[role]):,} {role}" for role in ("train", "dev", "held_out") if role in parts)
    return {role: tuple(part) for role, part in parts.items()}, [f"split by the column '{columns.split}': {counts}."]


def _held_out(
    task: Task, columns: Columns, parts: dict[str, Examples], notes: list[str]
) -> tuple[Examples, Sealed | None]:
    """What is left to train and choose on, and the sealed part unless it is a source of its own."""
    train = parts["train"]
    if task.data.held_out is not None:
        _refuse_both("held_out", columns, parts)
        return train, None
    if "held_out" in parts:
        return train, _sealed_rows(task, parts["held_out"], train, "the rows marked in the split column", notes)
    train, part = _split(task, train, task.data.held_out_share, "held_out", notes)
    return train, _sealed_rows(task, part, train, "rows split off train", notes)


def _shots(task: Task, kept: Examples, parts: dict[str, Examples], notes: list[str]) -> Examples:
    """The few rows that a few-shot task works with; a dev part that was given is not used, as there would be none."""
    assert task.shots is not None
    in_column = parts.pop("dev", ())
    if task.data.dev is not None or in_column:
        notes.append("dev: not used, because with `shots` the rows to choose on are taken out of the shots.")
    if task.kind == "generate":
        drawn = few_rows(kept, task.shots, draw=task.draw)
        notes.append(f"shots: {len(drawn):,} of {len(kept):,} rows in all, draw {task.draw}.")
        return drawn
    drawn = few_shots(kept, task.shots, draw=task.draw)
    counts = Counter(str(example.target) for example in drawn)
    short = sorted(label for label, count in counts.items() if count < task.shots)
    shown = ", ".join(f"{label!r} {counts[label]}" for label in short[:10]) + (" ..." if len(short) > 10 else "")
    notes.append(
        f"shots: {len(drawn):,} of {len(kept):,} rows, {task.shots} per class, draw {task.draw}"
        + (f"; {len(short)} classes have fewer: {shown}." if short else ".")
    )
    return drawn


def _dev(
    task: Task, columns: Columns, parts: dict[str, Examples], train: Examples, notes: list[str]
) -> tuple[Examples, Examples]:
    if task.data.dev is not None and task.shots is None:
        _refuse_both("dev", columns, parts)
        table = _load(task, "dev")
        rows = to_examples(table, columns, role="dev")
        notes += [*table.notes, *rows.notes]
        if task.kind == "generate":
            return train, rows.examples
        labels = {label for example in train for label in example.labels}
        _refuse_unknown(rows.examples, sorted(labels), table.source, [table.where(row) for row in rows.places])
        return train, rows.examples
    if "dev" in parts:
        return train, parts["dev"]
    return _split(task, train, task.data.dev_share, "dev", notes)


def _refuse_both(role: str, columns: Columns, parts: dict[str, Examples]) -> None:
    if role in parts:
        raise DataError(
            f"data.{role}: a source is given, and {len(parts[role]):,} training rows are marked {role} in the column "
            f"'{columns.split}'. Keep one of the two."
        )


def _split(task: Task, examples: Examples, share: float, name: str, notes: list[str]) -> tuple[Examples, Examples]:
    kept, part = split_off(examples, share, seed=task.seed, name=name, strata=strata_of(task.kind))
    by_class = task.kind == "classify"
    if not part or not kept:
        raise DataError(
            f"data: {len(examples):,} rows are too few, or hang together too closely, to split off {name} and keep "
            f"{'every class' if by_class else 'some'} in train. Give a file as `data.{name}`, or more rows."
        )
    notes.append(
        f"{name}: {len(part):,} of {len(examples):,} rows split off ({share:.0%} asked), "
        f"{'stratified by target' if by_class else 'not stratified'}; equal texts "
        f"{'and clusters ' if any(e.cluster for e in examples) else ''}kept together; seed {task.seed}."
    )
    notes += _lacking(kept, part, name)
    return kept, part


def _lacking(kept: Examples, part: Examples, name: str) -> list[str]:
    """Where rows have several labels: those that the part has none of, and so cannot measure."""
    if not any(isinstance(example.target, tuple) for example in part):
        return []
    there = {label for example in part for label in example.labels}
    gone = sorted({label for example in kept for label in example.labels} - there)
    if not gone:
        return [f"{name}: every label has a row there."]
    shown = ", ".join(map(repr, gone[:10])) + (" ..." if len(gone) > 10 else "")
    return [f"{name}: {len(gone)} of {len(there) + len(gone)} labels have no row there: {shown}."]


def _check_labels(train: Examples, dev: Examples, labels: Sequence[str], notes: list[str]) -> None:
    _refuse_unknown(dev, labels, "dev")
    once = sorted(label for label, count in Counter(label for e in train for label in e.labels).items() if count == 1)
    if once:
        shown = ", ".join(repr(label) for label in once[:10]) + (" ..." if len(once) > 10 else "")
        classes = "1 class has" if len(once) == 1 else f"{len(once)} classes have"
        notes.append(f"{classes} a single training row, which stays in train: {shown}.")
    notes += [look_alike_sentence(group) for group in look_alike(labels)]


def _refuse_unknown(examples: Sequence[Example], labels: Sequence[str], role: str, where: Sequence[str] = ()) -> None:
    """`where` says for each example where it stands; without it, ids are given."""
    unknown = sorted({label for example in examples for label in example.labels} - set(labels))
    if not unknown:
        return
    places = where or [f"id {example.id}" for example in examples]
    found = [place for place, example in zip(places, examples, strict=True) if unknown[0] in example.labels]
    shown = ", ".join(found[:SHOWN_LINES]) + (" ..." if len(found) > SHOWN_LINES else "")
    more = f" (and {len(unknown) - 1} more unknown labels)" if len(unknown) > 1 else ""
    raise DataError(
        f"{role}: {len(found):,} rows have the label {unknown[0]!r}, which no training row has: {shown}{more}. "
        "Correct the label, or add rows of it to train."
    )


def _sealed_rows(task: Task, part: Examples, train: Examples, source: str, notes: list[str]) -> Sealed:
    if task.kind == "generate":
        rows, part = part, together(part)
        notes += said_together("held_out", rows, part)
        return Sealed(
            fingerprint=content_digest(rows), source=source, n=len(part), read=functools.partial(_as_they_are, part)
        )
    read = functools.partial(_read_rows, part, tuple(sorted({label for example in train for label in example.labels})))
    return Sealed(fingerprint=content_digest(part), source=source, n=len(part), read=read)


def _read_rows(part: Examples, labels: Sequence[str]) -> tuple[Examples, tuple[str, ...]]:
    _refuse_unknown(part, labels, "held_out")
    return part, ()


def _as_they_are(part: Examples) -> tuple[Examples, tuple[str, ...]]:
    return part, ()


def _sealed_source(task: Task, columns: Columns, labels: Sequence[str] | None, train_rows: int) -> Sealed:
    """`labels` are those of train; None where texts are to be written. `train_rows`: of train's file, as measured."""
    source = task.data.held_out
    fingerprint = _fingerprint(task, source)
    name = Path(source).name if isinstance(source, (str, Path)) else f"the {type(source).__name__} given as held_out"
    read = functools.partial(_read_source, task, columns, labels, fingerprint)
    about = None if source is None else rows_by_size(task.data.train, source, train_rows)
    return Sealed(fingerprint=fingerprint, source=name, n=None, read=read, about=about)


def _read_source(
    task: Task, columns: Columns, labels: Sequence[str] | None, fingerprint: str
) -> tuple[Examples, tuple[str, ...]]:
    if _fingerprint(task, task.data.held_out) != fingerprint:
        raise DataError(
            "held_out: the data have changed since the run began. Start a new run, or put the old file back."
        )
    table = _load(task, "held_out")
    rows = to_examples(table, columns, role="held_out")
    if labels is None:
        examples = together(rows.examples)
        return examples, (*table.notes, *rows.notes, *said_together("held_out", rows.examples, examples))
    _refuse_unknown(rows.examples, labels, "held_out", [table.where(row) for row in rows.places])
    return rows.examples, (*table.notes, *rows.notes)


def _fingerprint(task: Task, source: Any) -> str:
    """Of a path the bytes, so that nothing is parsed before the opening; of an object or hub id the columns' texts."""
    if isinstance(source, (str, Path)) and not str(source).startswith("hub:"):
        return digest_of_path(Path(source), role="held_out")
    table = _load(task, "held_out")
    digest = hashlib.sha256()
    for name, values in (*table.columns.items(), *table.nested.items()):
        digest.update(repr((name, values)).encode())
    return digest.hexdigest()
