"""verdict.json: what was found, row by row, and with what."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.config import Task
from tunewise.evaluation.metrics import METRICS
from tunewise.runs import Run, write_json
from tunewise.search.climb import Rung, under_searched
from tunewise.search.finalists import Measured
from tunewise.search.study import Studied
from tunewise.story.session import Session
from tunewise.types import Finished, Score, Status, to_plain


def verdict_of(
    session: Session,
    rungs: Sequence[Rung],
    winners: Sequence[Rung],
    on_dev: Sequence[Measured],
    on_held_out: Sequence[Measured],
    differences: Sequence[Mapping[str, Any]],
    latencies: Sequence[float],
    choice: Any,
) -> dict[str, Any]:
    task, purse = session.task, session.purse
    rows = []
    for rung in rungs:
        row = _row(session, rung)
        if rung in winners:
            i = list(winners).index(rung)
            row["dev"], row["held_out"] = _plain_score(on_dev[i].score), _plain_score(on_held_out[i].score)
            if on_held_out[i].also:
                row["also"] = {score.metric: _plain_score(score) for score in on_held_out[i].also}
            row["latency_ms_per_example"], row["vs_best"] = latencies[i], dict(differences[i])
        rows.append(row)
    chosen = winners[choice.index]
    verdict = {
        **_frame(task),
        "n": {
            "train": len(session.choose) if len(session.folds) > 1 else len(session.data.train),
            "dev": len(session.choose) if len(session.folds) > 1 else len(session.data.dev),
            "held_out": on_held_out[0].score.n,
        },
        "folds": len(session.folds),
        "rungs": rows,
        "resolved": choice.resolved,
        "rows_to_resolve": choice.rows_to_resolve,
        "chosen": {"method": chosen.method.name, "base": chosen.base, "why": choice.why},
        "held_out_openings": {"this_run": 1, "all_runs": session.openings},
    }
    verdict["budget"] = {
        "asked": {k: v for k, v in to_plain(task.budget).items() if v is not None},
        "work": purse.total,
        "spent": {"minutes": session.clock.seconds / 60, "work": int(purse.spent), "trials": purse.tried},
    }
    if session.data.several:
        verdict["several"] = True
    verdict["signature"] = METRICS.get(task.metric).signature
    return verdict


def add_study(verdict: dict[str, Any], studied: Sequence[Studied], winners: Sequence[Rung]) -> None:
    """The noise floor by rung, and the points it and the learning curve were made of."""
    names = {winner.name: (winner.method.name, winner.base) for winner in winners}
    verdict["study"] = [
        {**dict(zip(("method", "base"), names[each.rung], strict=True)), **to_plain(each), "seed_sd": each.seed_sd}
        for each in studied
    ]
    for row in verdict["rungs"]:
        own = next((s for s in verdict["study"] if (s["method"], s["base"]) == (row["method"], row["base"])), None)
        row["seed_sd"] = own and own["seed_sd"]


def _frame(task: Task) -> dict[str, Any]:
    return {
        "version": 1,
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "level": task.level,
        "margin": task.margin,
        "seed": task.seed,
        "environment": {**environment(), "device": task.device, "dtype": task.dtype},
    }


def environment() -> dict[str, Any]:
    """Versions and machine facts that results may depend on."""
    import platform
    from importlib.metadata import version

    import torch

    names = ("tunewise", "torch", "transformers", "peft", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _row(session: Session, rung: Rung) -> dict[str, Any]:
    best = rung.best
    last = rung.trials[-1]
    price = session.purse.by_rung.get(f"{rung.method.name} {rung.base}", 0.0)
    return {
        "method": rung.method.name,
        "base": rung.base,
        "status": (Status.FINISHED if best else last.status).value,
        "reason": rung.closed,
        "config": dict((best or last).candidate.config),
        "dev": None,
        "held_out": None,
        "seconds": sum(trial.seconds for trial in rung.trials),
        "trials": sum(trial.work > 0 or isinstance(trial, Finished) for trial in rung.trials),
        "work": int(price),
        "share_of_budget": price / session.purse.total if session.purse.total else 0.0,
        "under_searched": under_searched(rung),
        "peak_memory_bytes": max((t.peak_memory_bytes for t in rung.trials if isinstance(t, Finished)), default=None),
        "trainable_parameters": best.trainable_parameters if best else None,
        "latency_ms_per_example": None,
        "seed_sd": None,
        "vs_best": None,
    }


def _plain_score(score: Score) -> dict[str, Any]:
    return {
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "interval": score.method,
        "caution": score.caution,
    }


def leave_early(task: Task, run: Run, reason: str) -> None:
    """A verdict.json that says the run has none yet; one that has its choice is left as it is."""
    path = run.folder / "verdict.json"
    if path.is_file() and json.loads(path.read_text("utf-8")).get("chosen"):
        return
    verdict = {
        **_frame(task),
        "chosen": None,
        "rungs": [],
        "notes": [reason],
        "words": f"No verdict yet: {reason}.",
    }
    write_json(path, verdict)
