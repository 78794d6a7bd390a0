"""Score a bundle on labelled rows: the metric with its interval, and per slice."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewise.config import Task
from tunewise.data.columns import find_columns
from tunewise.data.loaders import load_table
from tunewise.data.rows import labelled_rows
from tunewise.errors import DataError
from tunewise.evaluation.evaluate import evaluate
from tunewise.evaluation.metrics import METRICS
from tunewise.predictors.bundle import load_bundle
from tunewise.seeding import generator
from tunewise.types import to_plain


def rescore(
    bundle: Path, data: Path, *, metric: str | None, device: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Score, slices and notes, JSON-ready.

    Raises:
        DataError: the file has no target column, or labels the bundle does not know.
    """
    folder = bundle / "bundle" if (bundle / "bundle").is_dir() else bundle
    loaded = load_bundle(folder, device=device)
    task = Task.from_file(data, overrides=overrides)
    is_task = data.suffix.lower() in (".yaml", ".yml")
    if is_task and task.data.held_out is None:
        raise DataError(
            f"{data}: the task names no held_out, and its train rows may be what the bundle was fitted on. "
            "Give a file of fresh labelled rows instead."
        )
    source = task.data.held_out if is_task else task.data.train
    table = load_table(source, encoding=task.data.encoding, delimiter=task.data.delimiter, role="held_out")
    columns = dataclasses.replace(task, input=task.input or loaded.manifest.columns)
    examples, notes = labelled_rows(table, find_columns(table, columns))
    unknown = sorted({str(e.target) for e in examples} - set(loaded.predictor.labels))
    if unknown:
        raise DataError(f"{source}: labels that the bundle does not know: {', '.join(unknown[:5])}.")
    found = evaluate(
        loaded.predict(examples),
        examples,
        METRICS.get(metric or str(loaded.manifest.extra.get("metric", task.metric))),
        labels=loaded.predictor.labels,
        level=task.level,
        rng=generator(task.seed, "rescore"),
    )
    return {
        "score": to_plain(found.score),
        "slices": [to_plain(part) for part in found.slices],
        "notes": [*table.notes, *notes],
    }
