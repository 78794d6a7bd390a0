"""What stories share: a small task, the command line as a subprocess, and verdicts without clock and machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

WORDS = {
    "billing": ["invoice", "charge", "payment", "price", "card"],
    "login": ["password", "account", "sign", "locked", "code"],
    "crash": ["error", "screen", "freeze", "app", "bug"],
}
FILLER = ["the", "my", "please", "help", "now", "again", "today", "why", "is", "it"]


def write_tickets(path: Path, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = ["id,text,intent,region"]
    for i in range(n):
        label = str(rng.choice(list(WORDS), p=[0.5, 0.3, 0.2]))
        topic = label if rng.random() > 0.15 else str(rng.choice(list(WORDS)))
        words = [*rng.choice(WORDS[topic], size=2), *rng.choice(FILLER, size=rng.integers(2, 9))]
        lines.append(f"{seed}-{i},{' '.join(map(str, rng.permutation(words)))},{label},{rng.choice(['EU', 'US'])}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def tunewise(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunewise", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def comparable(folder: Path) -> dict[str, Any]:
    """verdict.json without what a clock or a machine decides."""
    verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text("utf-8"))
    for key in ("words", "environment", "held_out_openings"):
        verdict.pop(key)
    verdict["budget"]["spent"].pop("minutes")
    for row in verdict["rungs"]:
        for key in ("seconds", "latency_ms_per_example", "peak_memory_bytes"):
            row.pop(key)
    return verdict
