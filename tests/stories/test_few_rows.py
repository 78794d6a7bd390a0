"""A handful of rows: cross-fitted where the budget can bear it, and one small dev part where it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
from desk import tunewise

from tunewise.door import fit


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
    # eight candidates (seven penalties and a layer), and the rows that picked one of them score it
    assert any("picked the best of 8 candidates" in note for note in verdict["notes"])


def test_a_class_with_one_row_is_not_left_out_of_what_a_fold_learns_from(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    rows = [{"text": f"invoice number {i}", "label": "billing"} for i in range(8)]
    rows.append({"text": "my password is locked", "label": "login"})
    fresh = [
        {"text": f"{word} again {i}", "label": label}
        for i in range(10)
        for word, label in (("invoice", "billing"), ("locked", "login"))
    ]
    task = {"train": rows, "held_out": fresh, "methods": ["majority", "linear_probe"], "models": [str(tiny_base)]}
    run = fit({**task, "budget": {"work": 10**6}}, out=tmp_path / "run")
    assert run.verdict["folds"] == 1
    assert {row["method"]: row["status"] for row in run.verdict["rungs"]}["linear_probe"] == "finished"
