"""Climb the whole ladder on real data sets under a budget; one result file per set, finished ones are kept.

python benchmarks/ladder.py [SET ...] [--minutes 15]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from sets import SETS, data_root

RESULTS = Path(__file__).parent / "results"


def climb(name: str, minutes: float, seed: int) -> dict[str, object]:
    """The verdict of `tunewise fit` on a set, with the seconds of the whole process."""
    chosen, root = SETS[name], data_root()
    data = {"train": str(root / name / "train.jsonl"), "held_out": str(root / name / chosen.held_out)}
    if chosen.dev:
        data["dev"] = str(root / name / "dev.jsonl")
    task = {
        "name": name,
        "data": data,
        "metric": "accuracy",
        "labels": chosen.labels,
        "truncation": "keep_start",
        "margin": 0.005,
        "seed": seed,
        "budget": {"minutes": minutes},
    }
    with tempfile.TemporaryDirectory() as scratch:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name in asked.sets:
        path = RESULTS / f"ladder-{name}.json"
        if not path.exists():
            path.write_text(json.dumps(climb(name, asked.minutes, asked.seed), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
