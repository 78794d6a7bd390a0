"""Warm start: configurations that won in earlier runs of similar tasks are tried first in a bracket.

Similar is the run on the same base whose rows and labels are nearest in number: |ln rows/rows'| + |ln labels/labels'|.
Like the choice of rungs that were tried then, this can only change what is tried, never how it is measured.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import ConfigError

MOST = 4
"""Earlier configurations per rung."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What won on a rung in another run, and how far that task is from this one."""

    method: str
    base: str
    config: Mapping[str, Any]
    distance: float


def check_folder(folder: Path) -> None:
    """Raise ConfigError where there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"task: `warm_start` names {folder}, which is no folder. Give one that holds earlier runs.")


def earlier_winners(folder: Path, *, rows: int, labels: int) -> list[Earlier]:
    """The best configuration of every finished rung of every run below this folder, nearest tasks first.

    `rows` are those of train and dev together.

    Raises:
        ConfigError: there is no such folder.
    """
    check_folder(folder)
    found = []
    for path in sorted(folder.glob("*/verdict.json")):
        try:
            verdict = json.loads(path.read_text("utf-8"))
            data = json.loads((path.parent / "data.json").read_text("utf-8"))
            n = verdict["n"]
            then = n["train"] + (n["dev"] if verdict.get("folds", 1) == 1 else 0), len(data["labels"])
            distance = abs(math.log(rows / then[0])) + abs(math.log(labels / then[1]))
            finished = [row for row in verdict["rungs"] if row["status"] == "finished"]
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue  # a run that ended early, or another version's: nothing to learn from it
        found += [
            Earlier(method=row["method"], base=row["base"], config=row["config"], distance=distance) for row in finished
        ]
    return sorted(found, key=lambda earlier: earlier.distance)


def first_to_try(
    earlier: Sequence[Earlier], method: str, base: str, searched: Sequence[str], default: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """This rung's default with the searched settings of earlier winners, without repeats."""
    found: list[dict[str, Any]] = []
    for each in earlier:
        if (each.method, each.base) != (method, base):
            continue
        changed = {name: each.config[name] for name in searched if name in each.config}
        config = {**default, **changed}
        if config != dict(default) and config not in found:
            found.append(config)
    return found[:MOST]
