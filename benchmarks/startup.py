"""Seconds of `import tunewise` and `tunewise --help` as whole processes; the limit is 0.3 s each."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import tunewise": [sys.executable, "-c", "import tunewise"],
    "tunewise --help": [sys.executable, "-m", "tunewise", "--help"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(11):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    result = {name: {"median_seconds": statistics.median(s), "seconds": s} for name, s in seconds.items()}
    path = Path(__file__).parent / "results" / "startup.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result.items():
        print(f"{name}: {row['median_seconds']:.3f} s")


if __name__ == "__main__":
    main()
