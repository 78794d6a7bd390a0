"""Data sets of the `datasets` package: objects, folders written by save_to_disk, and `hub:<id>[:split]`."""

from pathlib import Path
from types import ModuleType
from typing import Any

from tunewise.data.loaders.arrow import table_of_arrow
from tunewise.data.table import Table
from tunewise.errors import DataError, did_you_mean

SPLITS = {"train": ("train",), "dev": ("validation", "dev", "val", "valid"), "held_out": ("test", "held_out")}


def load(source: Any, *, encoding: str, delimiter: str | None, role: str) -> Table:
    """The rows of a data set; of several splits the one that the role stands for, and the others are named in a note.

    Raises:
        DataError: `datasets` is not installed, the data set cannot be had, or has no such split.
    """
    if isinstance(source, str) and source.startswith("hub:"):
        dataset, name, notes = _from_hub(source, role)
    elif isinstance(source, (str, Path)):
        dataset, name, notes = _from_folder(Path(source), role)
    else:
        dataset, name, notes = source, f"the {type(source).__name__}", []
    if hasattr(dataset, "keys"):  # a DatasetDict
        split = _split_for(role, list(dataset.keys()), name)
        others = [key for key in dataset if key != split]
        if others:
            notes.append(f"{name}: the split '{split}' is read; also there: {', '.join(others)}.")
        dataset, name = dataset[split], f"{name}:{split}"
    classes = {key: feature.names for key, feature in dataset.features.items() if hasattr(feature, "names")}
    notes += [f"{name}: the class numbers of '{key}' are read as their names." for key in classes]
    return table_of_arrow(dataset.with_format("arrow")[:], source=name, notes=notes, names=classes)


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise DataError(
            "data: reading a data set folder or the hub needs the package `datasets`: pip install 'tunewise[data]'."
        ) from None
    module: ModuleType = datasets
    return module


def _from_folder(path: Path, role: str) -> tuple[Any, str, list[str]]:
    datasets = _datasets()
    try:
        return datasets.load_from_disk(str(path)), path.name, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"data.{role}: {path} is not a data set written by save_to_disk, or is damaged ({error})."
        ) from error


def _from_hub(source: str, role: str) -> tuple[Any, str, list[str]]:
    repository, _, split = source.removeprefix("hub:").partition(":")
    if not repository:
        raise DataError(f"data.{role}: expected `hub:<id>` or `hub:<id>:<split>`, got '{source}'.")
    datasets = _datasets()
    try:
        found = datasets.load_dataset(repository)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data.{role}: '{source}' cannot be had ({type(error).__name__}: {reason}).") from error
    if not split:
        return found, source, []
    if split not in found:
        raise DataError(f"data.{role}: {source} has no split '{split}'.{did_you_mean(split, found.keys())}")
    return found[split], source, []


def _split_for(role: str, found: list[str], name: str) -> str:
    wanted = SPLITS.get(role, (role,))
    for split in wanted:
        if split in found:
            return split
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"data.{role}: {name} has the splits {', '.join(found)}, none of them called {' or '.join(wanted)}. "
        "Name one, as in `hub:<id>:<split>`, or give the split itself."
    )
