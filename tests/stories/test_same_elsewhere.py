"""A run is a function of data, base, task and seed: where they lie changes nothing that was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewise.door import fit

MEASURED = ("status", "dev", "held_out", "config", "trials", "work", "seed_sd", "vs_best")


def measured(folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    rng = np.random.default_rng(1)
    lines = []
    for i in range(160):
        label = ("no", "yes")[i % 2]
        words = [*rng.choice(["a", "b", "c", "d"], size=5), *([label] if rng.random() < 0.7 else [])]
        lines.append(json.dumps({"text": f"{' '.join(map(str, rng.permutation(words)))} {i}", "label": label}))
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(base, folder / "base")
    run = fit(
        folder / "rows.jsonl",
        target="label",
        models=[str(folder / "base")],
        methods=["majority", "linear_probe", "bitfit"],
        truncation="keep_start",
        budget={"work": 60_000},
        out=folder / "run",
    )
    verdict = run.verdict
    rungs = [{key: row[key] for key in MEASURED} for row in verdict["rungs"]]
    return {"rungs": rungs, "chosen": verdict["chosen"]["method"]}


def test_the_same_rows_and_base_in_another_folder_give_the_same_numbers(
    tmp_path: Path, tiny_base: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (measured(tmp_path / name, tiny_base, monkeypatch) for name in ("here", "a-place-far-away"))
    assert {row["status"] for row in here["rungs"]} == {"finished"}
    assert here["rungs"][2]["trials"] > 1
    assert here == there
