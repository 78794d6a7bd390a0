"""Climb tasks of texts to be written with a tiny real Llama, and with the same architecture from random weights.

python benchmarks/generation.py [SET ...] [--bases stories260K random] [--rows 200]

One result file for each set and base; finished ones are kept. Train is some rows of the set's own train part, held_out
some inputs of its other part. The base is weak: what is looked at is whether training beats asking, and whether
pre-trained weights beat random ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sets import data_root
from untrained import random_base

RESULTS = Path(__file__).parent / "results" / "generation"
HELD_OUT = 50
"""Inputs that are written for in the end, with all their right answers."""
METHODS = ["majority", "zero_shot", "few_shot", "lora", "full"]
SETTINGS = {
    "lora": {"learning_rate": 0.005, "batch_size": 16, "epochs": 4.0},
    "full": {"learning_rate": 0.001, "batch_size": 16, "epochs": 4.0},
}
"""A base of 260 thousand weights likes higher rates than those that the defaults are for. One candidate a rung."""


@dataclass(frozen=True)
class Texts:
    """A set of texts to be written."""

    held_out: str
    input: str
    target: str
    instruction: str


SETS = {
    "e2e_nlg": Texts("dev.jsonl", "mr", "ref", "Describe the restaurant."),
    "nl2bash": Texts("test.jsonl", "cmd", "nl", "Say what the command does."),
}


def base_of(name: str, folder: Path) -> str:
    """The path of the pre-trained base, or of one of its architecture that knows nothing."""
    stories = str(data_root() / "models" / "stories260K")
    return stories if name == "stories260K" else random_base(stories, folder)


def some(source: Path, target: Path, key: str, count: int, *, inputs: bool) -> str:
    """So many rows of a file, drawn once and for all; or all rows of so many inputs."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in source.read_text("utf-8").split("\n") if line]
    names = list(dict.fromkeys(str(row[key]) for row in rows)) if inputs else list(range(len(rows)))
    chosen = {names[i] for i in np.random.default_rng(0).permutation(len(names))[:count]}
    kept = [row for i, row in enumerate(rows) if (str(row[key]) if inputs else i) in chosen]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return str(target)


def climb(name: str, base: str, rows: int) -> dict[str, Any]:
    """The verdict of `tunewise fit`, with the seconds of the whole process."""
    texts, root = SETS[name], data_root() / name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = {
            "name": name,
            "kind": "generate",
            "train": some(root / "train.jsonl", folder / "train.jsonl", texts.input, rows, inputs=False),
            "held_out": some(root / texts.held_out, folder / "held_out.jsonl", texts.input, HELD_OUT, inputs=True),
            "input": texts.input,
            "target": texts.target,
            "instruction": texts.instruction,
            "metric": "chrf",
            "truncation": "keep_start",
            "models": [base_of(base, folder / "base")],
            "methods": METHODS,
            "settings": SETTINGS,
            "budget": {"trials": len(METHODS)},
        }
        (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "tunewise", "fit", f"{folder}/task.yaml", "--out", f"{folder}/run"], check=True
        )
        seconds = time.monotonic() - started
        verdict = json.loads((folder / "run" / "verdict.json").read_text("utf-8"))
    return {"set": name, "base": base, "rows": rows, "seconds": seconds, **shortened(verdict)}


def shortened(verdict: dict[str, Any]) -> dict[str, Any]:
    """What is looked at: each rung's score with its interval, its best configuration, and the words of the verdict."""
    rungs = [
        {
            "rung": row["method"],
            "status": row["status"],
            "reason": row["reason"],
            "held_out": row["held_out"] and {k: row["held_out"][k] for k in ("score", "low", "high", "n")},
            "config": row["config"],
            "seconds": row["seconds"],
        }
        for row in verdict["rungs"]
    ]
    return {"chosen": verdict["chosen"]["method"], "words": verdict["words"], "rungs": rungs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--bases", nargs="+", default=["stories260K", "random"])
    parser.add_argument("--rows", type=int, default=200)
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        for base in asked.bases:
            path = RESULTS / f"{name}-{base}.json"
            if path.exists():
                print(f"{path.name}: kept")
                continue
            found = climb(name, base, asked.rows)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            for row in found["rungs"]:
                print(f"{name} {base} {row['rung']}: {row['held_out'] or row['reason']}")


if __name__ == "__main__":
    main()
