"""One task several times over: other draws of its few shots, or other seeds; and what the rungs scored on average."""

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.config import Task
from tunewise.errors import ConfigError, RunError
from tunewise.evaluation.metrics import METRICS
from tunewise.runs import write_json
from tunewise.search.watch import Watcher
from tunewise.story.fit import fit_task
from tunewise.story.session import ordered_where_asked, task_text

SUMMARY = "repeats.json"


def repeat_task(task: Task, *, times: int, folder: Path, watcher: Watcher) -> dict[str, Any]:
    """Run the ladder `times` times, each in a folder of its own, and write the table of all; finished runs are kept.

    With `shots` each run draws other rows; without, each has another seed, and with it another split where the data
    bring none.

    Raises:
        ConfigError: fewer than two times.
        As `fit_task`; what was finished stays, and the same call goes on behind it.
    """
    if times < 2:
        raise ConfigError(f"repeat: `--times` must be 2 or more, got {times}. For one run use `tunewise fit`.")
    verdicts = []
    for i in range(times):
        run = folder / f"run-{i}"
        own = _variant(task, i)
        verdict = _verdict_of(run, own)
        if verdict is None:
            watcher.say(
                f"run {i + 1} of {times}: {'draw' if task.shots else 'seed'} {own.draw if task.shots else own.seed}"
            )
            verdict = fit_task(own, folder=run, resume=_begun(run), watcher=watcher)
        verdicts.append(verdict)
    summary = summarise(verdicts)
    write_json(folder / SUMMARY, summary)
    return summary


def _variant(task: Task, i: int) -> Task:
    if task.shots is not None:
        return dataclasses.replace(task, draw=task.draw + i)
    return dataclasses.replace(task, seed=task.seed + i)


def _verdict_of(run: Path, task: Task) -> dict[str, Any] | None:
    """The verdict of this run where it was finished before.

    Raises:
        RunError: the folder holds a run of another task.
    """
    if not (run / "report.html").is_file():  # the last thing a run writes
        return None
    if (run / "task.yaml").read_text("utf-8") != task_text(ordered_where_asked(task)):
        raise RunError(f"{run}: holds a run of another task. Name another folder with --out, or delete this one.")
    verdict: dict[str, Any] = json.loads((run / "verdict.json").read_text("utf-8"))
    return verdict if verdict.get("chosen") else None


def _begun(run: Path) -> bool:
    """Whether there is something to resume; what a run left that was killed before that is cleared away."""
    begun = (run / "task.yaml").is_file()
    if not begun and (run / "ledger.sqlite").is_file():
        shutil.rmtree(run)
    return begun


def summarise(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each rung's held_out score over the runs that have one, and how often it won."""
    metric = verdicts[0]["metric"]
    scores: dict[tuple[str, str], list[float]] = {}
    chosen: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        won = (verdict["chosen"]["method"], verdict["chosen"]["base"])
        chosen[won] = chosen.get(won, 0) + 1
        for row in verdict["rungs"]:
            own = scores.setdefault((row["method"], row["base"]), [])
            if row["held_out"] is not None:
                own.append(row["held_out"]["score"])
    picked = [
        next(row["held_out"]["score"] for row in verdict["rungs"] if _names(row) == _names(verdict["chosen"]))
        for verdict in verdicts
    ]
    rows = [
        {"method": method, "base": base, **_spread(values), "chosen": chosen.get((method, base), 0)}
        for (method, base), values in scores.items()
    ]
    return {
        "task": verdicts[0]["task"],
        "metric": metric,
        "greater_is_better": METRICS.get(metric).greater_is_better,
        "runs": len(verdicts),
        "rungs": rows,
        "chosen": _spread(picked),
    }


def _names(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["method"], row["base"]


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over runs and standard error of the mean; None where there are too few."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "sd": sd,
        "error": None if sd is None else sd / math.sqrt(len(values)),
    }
