"""Run every benchmark that has no result yet, one after another, then put the tables into the README."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("startup.py", "replay.py", "stack.py", "features.py", "train_step.py", "bracket.py", "ladder.py")
RESULT_OF = {name: name.replace(".py", ".json") for name in ("startup.py", "replay.py", "stack.py", "features.py")}


def main() -> None:
    (HERE / "results").mkdir(exist_ok=True)
    for script in SCRIPTS:
        if script in RESULT_OF and (HERE / "results" / RESULT_OF[script]).exists():
            continue
        subprocess.run([sys.executable, str(HERE / script)], check=True)
    subprocess.run([sys.executable, str(HERE / "summary.py"), "--write"], check=True)


if __name__ == "__main__":
    main()
