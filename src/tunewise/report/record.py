"""What a report knows: the files of one run folder, read once; a missing one is None, a broken one an error."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import RunError
from tunewise.report.sentences import visible

WITHHELD = "[text withheld]"
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run as plain values. With `texts` False no input of a row is in it, anywhere."""

    name: str
    verdict: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    curves: Rows | None = None
    slices: Rows | None = None
    by_label: Rows | None = None
    """Where a text may have several labels: how each of them fares."""
    mistakes: Rows | None = None
    predictions: Rows | None = None
    task_yaml: str | None = None
    texts: bool = True

    @property
    def metric(self) -> str:
        """Name of the task's metric. Only to be asked where there is a verdict."""
        assert self.verdict is not None
        return str(self.verdict["metric"])

    def chosen_predictions(self, part: str) -> Rows:
        """Of the chosen predictor on `dev` or `held_out`, in file order."""
        return [row for row in self.predictions or [] if row["chosen"] and row["split"] == part]


def read_record(folder: Path, *, texts: bool = True) -> Record:
    """The run in this folder.

    Raises:
        RunError: the folder is missing, or a file in it is not what it should be.
    """
    if not folder.is_dir():
        raise RunError(f"report: {folder} is not a folder. Name the folder of a run, for example runs/tickets-1.")
    verdict = _read_json(folder / "verdict.json", dict)
    record = Record(
        name=str(verdict["task"]) if verdict and "task" in verdict else folder.name,
        verdict=verdict,
        data=_read_json(folder / "data.json", dict),
        curves=_read_json(folder / "curves.json", list),
        slices=_read_json(folder / "slices.json", list),
        by_label=_read_json(folder / "labels.json", list),
        mistakes=_read_json(folder / "mistakes.json", list),
        predictions=_read_predictions(folder / "predictions.parquet", texts=not texts),
        task_yaml=clean(_read_text(folder / "task.yaml")),
    )
    return record if texts else without_texts(record)


def without_texts(record: Record) -> Record:
    """The same run without inputs and neighbours; where another file quotes one of them, it is blanked out."""
    known = {str(row.get("text") or "") for row in [*(record.predictions or []), *(record.mistakes or [])]}
    known |= {str(near["text"]) for row in record.mistakes or [] for near in row.get("neighbours", [])}
    labels = {str(row["label"]) for row in (record.data or {}).get("labels", [])}
    labels |= {str(row["target"]) for row in record.predictions or []}
    said = "\n".join(_strings([record.verdict, record.data, record.curves, record.slices, record.task_yaml]))
    # a text of one short word cannot be told from a word of ours, and hiding it would make sentences unreadable
    quoted = {text for text in known - labels if (len(text) >= 12 or " " in text.strip()) and text in said}
    hide = sorted(quoted, key=lambda text: (-len(text), text))

    def blank(text: str) -> str:
        for secret in hide:
            text = text.replace(secret, WITHHELD)
        return text

    def strip(rows: Rows | None) -> Rows | None:
        return (
            None
            if rows is None
            else [{k: v for k, v in row.items() if k not in ("text", "neighbours")} for row in rows]
        )

    return Record(
        name=record.name,
        verdict=_map_strings(record.verdict, blank),
        data=_map_strings(record.data, blank),
        curves=_map_strings(record.curves, blank),
        slices=_map_strings(record.slices, blank),
        by_label=record.by_label,
        mistakes=strip(record.mistakes),
        predictions=strip(record.predictions),
        task_yaml=None if record.task_yaml is None else blank(record.task_yaml),
        texts=False,
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_strings(item, change) for key, item in value.items()}
    return [_map_strings(item, change) for item in value] if isinstance(value, list) else value


def clean(value: Any) -> Any:
    """The same value with None for NaN and the infinities, and with no control characters in its strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _read_json(path: Path, kind: type) -> Any:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(value, kind):
        raise _damaged(path, f"it holds a {type(value).__name__}, not a {kind.__name__}")
    return clean(value)


def _read_predictions(path: Path, *, texts: bool) -> Rows | None:
    """Rows without `id` and probability of the target, which no section shows; inputs only where they must be known."""
    if not path.exists():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["method", "base", "split", "target", "label", "chosen", *(["text"] if texts else [])]
    try:
        rows: Rows = pq.read_table(path, columns=columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return [clean(row) for row in rows]


def _damaged(path: Path, why: object) -> RunError:
    return RunError(
        f"report: {path.name} in {path.parent} cannot be read ({' '.join(str(why).split())}). "
        "Restore it from a copy, or continue the run with --resume to write it again."
    )
