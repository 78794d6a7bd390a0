"""The story of a run: load, audit, plan, climb, choose, open held_out once, report, bundle."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tunewise.config import OWN_METRIC, Task
from tunewise.data.load import load_data
from tunewise.errors import ConfigError, EndedEarly, RunError, TunewiseError
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.several import check_several
from tunewise.runs import Run, next_folder
from tunewise.search.budget import Clock, hard_stop
from tunewise.search.climb import Climb, Rung
from tunewise.search.plan import memory_refusals
from tunewise.search.prior import Earlier, earlier_winners
from tunewise.search.stopper import Stopper
from tunewise.search.watch import PlanRow, Quiet, Watcher
from tunewise.story.outcome import conclude
from tunewise.story.session import (
    Session,
    arena_of,
    check_names,
    finish_seconds,
    ordered_where_asked,
    plan_rows,
    prepare,
    threshold_notes,
)
from tunewise.story.verdict import leave_early
from tunewise.types import Candidate, to_plain


def fit_task(
    task: Task,
    *,
    folder: Path | None = None,
    resume: bool = False,
    like: Candidate | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Run the ladder on a task and leave everything in the run folder; returns the verdict as in verdict.json.

    With `like`, only this candidate is made, on the new data, without a search.

    Raises:
        ConfigError, DataError, ModelError, RunError: the input is wrong; nothing was written over.
        EndedEarly: interrupted, or nothing could be measured; what there is was saved and `resume` continues.
    """
    clock, watcher = Clock(), watcher or Quiet()
    check_names(task)
    task = ordered_where_asked(task)
    data = load_data(task)
    check_several(METRICS.get(task.metric), several=data.several)
    folder = folder or next_folder(task.name)
    with Run.open(folder) if resume else Run.create(folder) as run:
        clock.before = float(run.ledger.recall("clock") or 0.0)
        try:
            like_plain = run.ledger.once("like", "", lambda: to_plain(like) if like else {})
            like = Candidate(**like_plain) if like_plain else None
            session = prepare(task, data, run, clock, watcher)
            watcher.plan(plan_rows(session))
            rungs = climb(session, like)
            return conclude(session, rungs)
        except EndedEarly as early:
            leave_early(task, run, str(early))
            raise
        except KeyboardInterrupt as stop:
            leave_early(task, run, "interrupted")
            raise EndedEarly("interrupted; what was done is saved") from stop
        except TunewiseError:
            if not resume and run.ledger.recall("budget") is None:
                shutil.rmtree(folder)  # nothing was done yet: the same --out can be used again
            raise


def climb(session: Session, like: Candidate | None) -> list[Rung]:
    """Every rung with its trials."""
    stopper = Stopper(session.clock, hard_stop(session.task.budget, finish_seconds(session)))
    arena = arena_of(session, stopper)
    for note in threshold_notes(session):
        session.watcher.say(note)
    recorded = session.run.ledger.once("refusals", "", lambda: memory_refusals(plan_rows(session)))
    with stopper.listening():
        rungs = Climb(
            arena,
            session.purse,
            session.context,
            list(session.bases),
            session.methods,
            recorded,
            like,
            _earlier(session),
        ).run()
    if stopper.interrupted:
        raise EndedEarly("interrupted; what was done is saved")
    return rungs


def _earlier(session: Session) -> list[Earlier]:
    """Winners of earlier runs, as they were found when this run started."""
    folder = session.task.warm_start
    if folder is None:
        return []

    def read() -> Any:
        found = earlier_winners(
            Path(folder), rows=len(session.data.train) + len(session.data.dev), labels=len(session.data.labels)
        )
        return [to_plain(each) for each in found]

    earlier = [Earlier(**plain) for plain in session.run.ledger.once("warm start", "", read)]
    session.watcher.say(f"warm start: {len(earlier)} configurations of earlier runs in {folder} are tried first.")
    return earlier


def chosen_candidate(folder: Path) -> Candidate:
    """What a finished run chose, to be made again on other data.

    Raises:
        RunError: there is no run with a verdict in the folder.
    """
    path = folder / "verdict.json"
    verdict = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if not verdict.get("chosen"):
        raise RunError(f"{folder}: no run with a verdict here, so there is no choice to repeat.")
    method, base = verdict["chosen"]["method"], verdict["chosen"]["base"]
    row = next(row for row in verdict["rungs"] if (row["method"], row["base"]) == (method, base))
    return Candidate(method=method, base=base, config=row["config"])


def settings_like(task: Task, folder: Path) -> Task:
    """The task with the settings of another run, where it has none of its own; its data and name stay."""
    other = Task.from_file(folder / "task.yaml")
    if other.metric.startswith(OWN_METRIC) and task.metric == Task(data=task.data).metric:
        raise ConfigError(
            f"{folder}: its metric is a function in a file ({other.metric}), and code is never run because a run names "
            "it. Name the metric yourself: `--metric`, or `metric` in the task."
        )
    plain = Task(data=task.data)
    kept = {"data", "name"}
    taken = {
        f.name: getattr(other, f.name)
        for f in dataclasses.fields(task)
        if f.name not in kept and getattr(task, f.name) == getattr(plain, f.name)
    }
    return dataclasses.replace(task, **taken)


def plan_task(task: Task, *, watcher: Watcher) -> list[PlanRow]:
    """The plan of a run, without running it; nothing is left on disk."""
    check_names(task)
    task = ordered_where_asked(task)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "plan") as run:
        data = load_data(task)
        check_several(METRICS.get(task.metric), several=data.several)
        return plan_rows(prepare(task, data, run, clock, watcher))
