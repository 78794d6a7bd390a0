"""Readers of data, one file per format; a format joins with one line here, under the extension it is known by."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tunewise.data.files import check_readable
from tunewise.data.table import Table
from tunewise.errors import DataError
from tunewise.registry import Registry


class Loader(Protocol):
    """Reads one format into columns of text."""

    def __call__(self, source: Any, *, encoding: str, delimiter: str | None, role: str) -> Table: ...


LOADERS: Registry[Loader] = Registry(
    "loaders",
    {
        "csv": "tunewise.data.loaders.csv:load",
        "tsv": "tunewise.data.loaders.csv:load",
        "txt": "tunewise.data.loaders.csv:load",
        "jsonl": "tunewise.data.loaders.jsonl:load",
        "ndjson": "tunewise.data.loaders.jsonl:load",
        "json": "tunewise.data.loaders.jsonl:load",
        "parquet": "tunewise.data.loaders.parquet:load",
        "pq": "tunewise.data.loaders.parquet:load",
        "hf": "tunewise.data.loaders.hf:load",
        "frame": "tunewise.data.loaders.frame:load",
    },
)


def load_table(source: Any, *, encoding: str = "utf-8", delimiter: str | None = None, role: str = "train") -> Table:
    """The rows of a file, folder, hub data set or Python object as columns of text, whatever the format.

    Raises:
        DataError: the source is missing, of no known format, or not what it claims to be.
    """
    if isinstance(source, Table):
        return source
    load = LOADERS.get(format_of(source, role=role))
    return load(source, encoding=encoding, delimiter=delimiter, role=role)


def format_of(source: Any, *, role: str) -> str:
    """Name in the registry of what reads this source.

    Raises:
        DataError: nothing does; the formats that are known are listed.
    """
    if isinstance(source, (str, Path)):
        return "hf" if str(source).startswith("hub:") else _format_of_path(source, role)
    if _is_from(source, "pandas", "DataFrame") or _is_rows(source):
        return "frame"
    if any(_is_from(source, "datasets", kind) for kind in ("Dataset", "DatasetDict")):
        return "hf"
    raise DataError(
        f"data.{role}: cannot read rows from {type(source).__name__}. Give a path, `hub:<id>`, a pandas DataFrame, "
        "a `datasets.Dataset` or a list of dicts."
    )


def _format_of_path(source: str | Path, role: str) -> str:
    check_readable(source, role=role)
    path = Path(source)
    if path.is_dir():
        if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            return "hf"
        raise DataError(
            f"data.{role}: {path} is a folder that `datasets` did not save (no state.json). Name a data file in it."
        )
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in LOADERS or suffix in ("hf", "frame"):
        known = ", ".join(f".{name}" for name in LOADERS if name not in ("hf", "frame"))
        raise DataError(
            f"data.{role}: {path.name} ends in none of the known extensions ({known}). Rename or convert it."
        )
    return suffix


def _is_from(source: object, package: str, kind: str) -> bool:
    """Whether it is of that class, without importing the package for those who do not use it."""
    module = sys.modules.get(package)
    return module is not None and isinstance(source, getattr(module, kind, ()))


def _is_rows(source: object) -> bool:
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(row, Mapping) for row in source)
