"""Climb the whole ladder on real data sets under a budget; one result file per set, finished ones are kept.

python benchmarks/ladder.py [SET ...] [--minutes 15]                        all of train
python benchmarks/ladder.py [SET ...] --shots 8 64 --draws 3 --minutes 2    8 and 64 rows per class, three draws

With a few rows per class held_out is 1,000 rows of the test part, the same in all draws: every rung's winner reads it,
and reading all of it takes longer than the budget.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from sets import SETS, data_root

RESULTS = Path(__file__).parent / "results"
HELD_OUT = 1000
"""Rows of the test part that are read where train has a few shots."""


def climb(name: str, minutes: float, seed: int, shots: int | None = None, draw: int = 0) -> dict[str, object]:
    """The verdict of `tunewise fit` on a set, or on a few shots of it, with the seconds of the whole process."""
    chosen, root = SETS[name], data_root()
    data = {"train": str(root / name / "train.jsonl"), "held_out": str(root / name / chosen.held_out)}
    if chosen.dev and shots is None:
        data["dev"] = str(root / name / "dev.jsonl")
    task = {
        "name": name,
        "data": data,
        "metric": chosen.metric,
        "labels": chosen.labels,
        "truncation": "keep_start",
        "margin": 0.005,
        "seed": seed,
        "budget": {"minutes": minutes},
        "draw": draw,
    }
    if shots is not None:
        task["shots"] = shots
    with tempfile.TemporaryDirectory() as scratch:
        if shots is not None:
            data["held_out"] = some_rows(Path(data["held_out"]), Path(scratch) / "held_out.jsonl")
        (Path(scratch) / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        started = time.monotonic()
        command = [sys.executable, "-m", "tunewise", "fit", f"{scratch}/task.yaml", "--out", f"{scratch}/run"]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
        verdict: dict[str, object] = json.loads(Path(scratch, "run", "verdict.json").read_text("utf-8"))
        kept = RESULTS / "runs" / name
        if kept.parent.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(Path(scratch, "run"), kept, ignore=shutil.ignore_patterns("trials", "bundle", "cache"))
    verdict["process_seconds"] = seconds
    verdict["notes"] = [note for note in verdict.get("notes", []) if str(root) not in str(note)]  # type: ignore[attr-defined]
    return verdict


def some_rows(source: Path, target: Path) -> str:
    """`HELD_OUT` lines of a file, drawn once and for all."""
    lines = [line for line in source.read_text("utf-8").split("\n") if line]
    order = np.random.default_rng(0).permutation(len(lines))[:HELD_OUT]
    target.write_text("".join(f"{lines[i]}\n" for i in order), encoding="utf-8")
    return str(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shots", type=int, nargs="+")
    parser.add_argument("--draws", type=int, default=1)
    asked = parser.parse_args()
    cells = [
        (name, shots, draw) for shots in asked.shots or [None] for draw in range(asked.draws) for name in asked.sets
    ]
    for name, shots, draw in cells:
        path = RESULTS / (f"ladder-{name}.json" if shots is None else f"shots/{name}-{shots}-{draw}.json")
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            verdict = climb(name, asked.minutes, asked.seed, shots, draw)
            path.write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
