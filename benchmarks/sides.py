"""One side of a benchmark in a process of its own, which prints what it found as JSON after RESULT."""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any


def found_by(command: Sequence[str], *, who: str, threads: int) -> dict[str, Any]:
    """What the process found, with so many threads and no model hub; ends this one where it failed."""
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits})
    if done.returncode != 0:
        raise SystemExit(f"{who} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    line = next(line for line in done.stdout.split("\n") if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found
