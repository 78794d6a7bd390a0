"""Labels from a base that writes: what asking it, and training it, reaches; beside the same architecture untrained.

Sentiment, entailment, grammar and topics with the tiny Llama of `models/stories260K` and with its architecture at
random weights, the same rows and the same work on both sides; `written`: labels are written and read off the answer,
not scored. The base is far too small to know anything of these tasks: what is shown is that every rung runs on real
rows, that training beats asking, and what pre-training is worth.

One result file per cell, finished ones are kept.

python benchmarks/asked.py [SET ...] [--work 2500000]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sets import data_root
from untrained import random_base

RESULTS = Path(__file__).parent / "results" / "asked"
TRAIN, DEV, HELD_OUT = 800, 200, 500
"""Rows, drawn once and for all."""
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {"instruction": "Is the review good or bad?", "words": {"positive": "good", "negative": "bad"}},
    "rte": {
        "input": ["premise", "hypothesis"],
        "instruction": "Does the first text say what the second one says?",
        "words": {"entailment": "yes", "not_entailment": "no"},
    },
    "cola": {"instruction": "Is the sentence right?", "words": {"acceptable": "yes", "unacceptable": "no"}},
    "ag_news": {
        "instruction": "What is it about?",
        "words": {"World": "the world", "Sports": "a game", "Business": "money", "Sci/Tech": "a machine"},
    },
}
HELD_OUT_PART = {"sst2": "test", "rte": "dev", "cola": "dev", "ag_news": "test"}
TRAINED = ["linear_probe", "prompt_tuning", "lora", "cloze", "full"]
SIDES: dict[str, dict[str, Any]] = {
    "pre-trained": {"methods": ["majority", "zero_shot", "few_shot", "retrieval", *TRAINED]},
    "random": {"methods": ["majority", *TRAINED]},
    "written": {
        "methods": ["majority", "zero_shot", "few_shot"],
        "settings": {"zero_shot": {"answer": "written"}, "few_shot": {"answer": "written"}},
    },
}


def rows(name: str, part: str, count: int, seed: int) -> list[str]:
    """`count` lines of a part, in an order of their own."""
    lines = [line for line in (data_root() / name / f"{part}.jsonl").read_text("utf-8").split("\n") if line]
    return [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))[:count]]


def climb(name: str, side: str, work: int) -> dict[str, Any]:
    """What a verdict needs to be read: the rungs' scores on held_out, the choice, and the work."""
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        known = rows(name, "train", TRAIN + DEV, 1)
        parts = {"train": known[:TRAIN], "dev": known[TRAIN:], "held_out": rows(name, HELD_OUT_PART[name], HELD_OUT, 2)}
        for part, lines in parts.items():
            (here / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        base = str(data_root() / "models" / "stories260K")
        if side == "random":
            base = random_base(base, here / "base")
        task = {
            "name": name,
            "data": {part: f"{part}.jsonl" for part in parts},
            "target": "label",
            "metric": "macro_f1",
            "truncation": "keep_start",
            "models": [base],
            "budget": {"work": work},
            **TASKS[name],
            **SIDES[side],
        }
        (here / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        command = [sys.executable, "-m", "tunewise", "fit", f"{scratch}/task.yaml", "--out", f"{scratch}/run"]
        subprocess.run(command, check=True)
        verdict = json.loads((here / "run" / "verdict.json").read_text("utf-8"))
    found = [
        {
            "method": row["method"],
            "status": row["status"],
            "reason": row.get("reason"),
            "held_out": row.get("held_out"),
            "trials": row.get("trials"),
        }
        for row in verdict["rungs"]
    ]
    return {
        **{"set": name, "side": side, "work": work, "metric": verdict["metric"], "n": verdict["n"]},
        **{"chosen": verdict["chosen"]["method"], "rungs": found, "environment": verdict["environment"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(TASKS))
    parser.add_argument("--work", type=int, default=2_500_000)
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        for side in SIDES:
            path = RESULTS / f"{name}-{side}.json"
            if not path.exists():
                path.write_text(json.dumps(climb(name, side, asked.work), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
