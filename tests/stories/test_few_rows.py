"""A handful of rows: cross-fitted where the budget can bear it, and one small dev part where it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
from desk import tunewise


def verdict_of(desk: Path, work: int) -> dict[str, Any]:
    settings = ["shots=8", "methods=[majority, linear_probe]", f"budget.work={work}"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = tunewise(desk, "fit", "task.yaml", "--out", f"run-{work}", *arguments)
    assert done.returncode == 0, done.stderr
    verdict: dict[str, Any] = json.loads((desk / f"run-{work}" / "verdict.json").read_text("utf-8"))
    return verdict


@pytest.mark.parametrize(("work", "folds"), [(100_000, 3), (10_000, 1)])
def test_a_handful_of_rows_is_all_dev_where_thirty_passes_can_be_paid(desk: Path, work: int, folds: int) -> None:
    verdict = verdict_of(desk, work)
    assert verdict["folds"] == folds
    (probe,) = (row for row in verdict["rungs"] if row["method"] == "linear_probe")
    assert probe["dev"]["n"] == (24 if folds == 3 else verdict["n"]["dev"])
    assert folds == 3 or verdict["n"]["dev"] < 24
