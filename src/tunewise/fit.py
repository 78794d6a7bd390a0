"""The story of a run: load, audit, plan, climb, choose, open held_out once, report, bundle."""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunewise.config import Task
from tunewise.data.audit import Finding, audit
from tunewise.data.audit.duplicates import leakage
from tunewise.data.load import Data, load_data
from tunewise.data.split import k_folds, race_and_choose
from tunewise.errors import EndedEarly, RunError, TunewiseError
from tunewise.evaluation.evaluate import evaluate
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.ordinal import check_order
from tunewise.evaluation.several import check_several, threshold_note
from tunewise.methods import get_method, in_order
from tunewise.methods.base import Context, Fold, skip_reason
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder, answering
from tunewise.models.load import load_base
from tunewise.predictors.base import Predictor
from tunewise.predictors.bundle import load_predictor, save_bundle
from tunewise.predictors.several import Thresholds
from tunewise.report.build import build_report
from tunewise.report.card import model_card
from tunewise.report.evidence import Evidence, write_evidence
from tunewise.report.verdict import verdict_words
from tunewise.runs import Run, count_opening, next_folder, write_atomic, write_json
from tunewise.search.budget import Clock, Purse, hard_stop, work_of
from tunewise.search.calibrate import Speed, forward_speed, rehearse
from tunewise.search.climb import Climb, Rung, under_searched
from tunewise.search.finalists import Measured, choose_rung, clusters_of, latency, measure, versus_best
from tunewise.search.plan import make_plan, memory_refusals
from tunewise.search.prior import Earlier, earlier_winners
from tunewise.search.study import Studied, Study
from tunewise.search.trial import Arena, Stopper, race_predictions
from tunewise.search.watch import PlanRow, Quiet, Watcher
from tunewise.seeding import derive, generator
from tunewise.types import Candidate, Example, Finished, Score, Status, to_plain

PROBES = 16
FEW_ROWS = 400
"""Dev rows below which candidates are cross-fitted."""
FOLDS = 3
PASSES = 100
"""Forward passes over all rows, per fold, that the search must be able to pay for cross-fitting to be worth it."""


@dataclass
class Session:
    """What one sitting of a run holds in memory."""

    task: Task
    run: Run
    clock: Clock
    watcher: Watcher
    data: Data
    bases: dict[str, Encoder]
    stores: dict[str, FeatureStore]
    folds: tuple[Fold, ...]
    """One, with the race half of dev; or several over train and dev, where rows are few."""
    choose: tuple[Example, ...]
    findings: list[Finding]
    tokens: dict[str, dict[str, Any]]
    speeds: dict[str, Speed]
    purse: Purse
    openings: int | None = None
    """Of this held_out by runs of this user, once it was opened."""

    def context(self, base: str, method: str, bracket: int) -> Context:
        """What a method may see; each bracket has its own seed."""
        speed = self.speeds.get(f"{method} {base}") or self.speeds[f"forward {base}"]
        return Context(
            task=dataclasses.replace(self.task, truncation=answering(self.task.truncation)),
            labels=self.data.labels,
            base=self.bases[base],
            folds=self.folds,
            features=self.stores[base],
            work=self.purse.granted(method, base),
            seed=derive(self.task.seed, base, method, bracket),
            train_tokens=self.tokens[base]["train"],
            race_tokens=self.tokens[base]["race"],
            seconds_per_work=speed.seconds_per_work,
            several=self.data.several,
        )

    @property
    def race(self) -> tuple[Example, ...]:
        """The rows that candidates race on."""
        return tuple(example for fold in self.folds for example in fold.race)

    @property
    def methods(self) -> tuple[str, ...]:
        """The rungs to climb, in the ladder's order."""
        return in_order(self.task.methods)


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


def check_names(task: Task) -> None:
    """Raise ConfigError for a metric or method that does not exist, before anything is read."""
    check_order(METRICS.get(task.metric), ordered=task.ordinal)
    for name in task.methods or ():
        get_method(name)


def ordered_where_asked(task: Task) -> Task:
    """The task with the order of its labels required where its metric measures how far off an answer is."""
    asked = METRICS.get(task.metric).needs_order and task.order is None
    return dataclasses.replace(task, ordinal=True) if asked else task


def prepare(task: Task, data: Data, run: Run, clock: Clock, watcher: Watcher) -> Session:
    """Load the bases, audit the data, measure the machine, turn minutes into work; all of it recorded once."""
    for note in data.notes:
        watcher.say(note)
    _same_as_before(run, "data", {"train": data.fingerprint, "held_out": data.held_out.fingerprint}, "the data")
    _same_as_before(run, "task", task_text(task), "the task")
    write_atomic(run.folder / "task.yaml", task_text(task))
    bases = {
        name: load_base(
            name,
            device=task.device,
            dtype=task.dtype,
            allow_pickle=task.allow_pickle,
            trust_remote_code=task.trust_remote_code,
        )
        for name in task.models
    }
    for name, base in bases.items():
        _same_as_before(run, f"base {name}", {"sha256": base.info.sha256}, f"the weights of {name}")
    fold, choose = _one_fold(data)
    tokens = {name: _count_tokens(base, data, (fold,), task) for name, base in bases.items()}
    findings = _audit(data, bases, watcher)
    for name, counted in tokens.items():
        if counted["note"]:
            watcher.say(f"{name}: {counted['note']}")
    stores = {
        name: FeatureStore(base, task.truncation, (*data.train, *fold.race), run.folder / "cache" / f"features-{i}")
        for i, (name, base) in enumerate(bases.items())
    }
    purse = Purse(total=None, trials=task.budget.trials, rates={})
    session = Session(task, run, clock, watcher, data, bases, stores, (fold,), choose, findings, tokens, {}, purse)
    _measure_machine(session)
    _cross_fit(session)
    return session


def _one_fold(data: Data) -> tuple[Fold, tuple[Example, ...]]:
    """The rows to fit and race on, and the rows to choose on."""
    race, choose = race_and_choose(data.dev, minimum=FEW_ROWS)
    return Fold(train=data.train, race=race), choose


def _cross_fit(session: Session) -> None:
    """Where dev was split off and has few rows: fit on folds of train and dev, if the budget can bear it."""
    data, k = session.data, FOLDS
    if len(data.dev) >= FEW_ROWS:
        return
    first = session.tokens[session.task.models[0]]
    needed = PASSES * k * (first["train"] + first["race"])
    affordable = not data.own_dev and session.purse.left >= needed
    if not session.run.ledger.once("cross-fit", "", lambda: affordable):
        session.watcher.say(
            f"dev has {len(data.dev)} rows, too few to split again: the same rows race candidates and choose the "
            "rung, so its scores flatter the winner a little; held_out does not."
            + ("" if data.own_dev else " With a larger budget, candidates would be cross-fitted instead.")
        )
        return
    parts = k_folds((*data.train, *data.dev), k, seed=session.task.seed)
    session.folds = tuple(
        Fold(train=tuple(e for other in parts if other is not part for e in other), race=part) for part in parts
    )
    session.choose = session.race
    session.tokens = {
        name: _count_tokens(base, data, session.folds, session.task) for name, base in session.bases.items()
    }
    session.watcher.say(
        f"dev would have {len(data.dev)} rows, too few to choose by: candidates are fitted on {len(parts)} folds of "
        f"the {len(session.race):,} rows and scored on those they were not fitted on; what is chosen is fitted on all."
    )


def _same_as_before(run: Run, kind: str, value: Any, what: str) -> None:
    if run.ledger.once("same", kind, lambda: value) != value:
        raise RunError(
            f"{run.folder}: {what} changed since this run started, so it cannot be continued. "
            "Put the old version back, or start a new run."
        )


def _count_tokens(base: Encoder, data: Data, folds: Sequence[Fold], task: Task) -> dict[str, Any]:
    # what is too long is judged over all rows that are worked with; their parts are then cut, never refused
    everything = base.encode([e.texts for e in (*data.train, *data.dev)], task.truncation, name="train and dev")
    train = sum(base.encode([e.texts for e in fold.train], answering(task.truncation)).tokens for fold in folds)
    race = sum(base.encode([e.texts for e in fold.race], answering(task.truncation)).tokens for fold in folds)
    cut = everything.cut_rows
    note = ""
    if cut:
        note = (
            f"{cut} of {everything.rows} rows are longer than the {base.info.max_tokens} tokens it reads; "
            f"{everything.cut_tokens} tokens were cut (policy {task.truncation})."
        )
    lengths = base.token_counts([e.texts for e in data.train])
    k = len(folds)
    return {"train": train // k, "race": race // k, "note": note, "lengths": lengths, "too_long": cut}


def _audit(data: Data, bases: Mapping[str, Encoder], watcher: Watcher) -> list[Finding]:
    first = next(iter(bases.values()))
    findings = audit(data, length_of=first.token_counts, max_tokens=first.info.max_tokens)
    for finding in findings:
        watcher.say(f"audit, {finding.severity}: {finding.sentence}")
    if any(finding.check == "languages" and finding.severity != "info" for finding in findings):
        for name, base in bases.items():
            if base.info.english_only:
                watcher.say(f"{name} was trained on English only; expect less on the rows in other languages.")
    return findings


def _measure_machine(session: Session) -> None:
    """Speeds of every rung and the work the budget stands for: measured once, recorded, and the same on resume."""
    task, ledger = session.task, session.run.ledger

    def speed(name: str, make: Any) -> None:
        raw = ledger.once("speed", name, lambda: to_plain(make()))
        session.speeds[name] = Speed(**raw)

    for base, encoder in session.bases.items():
        speed(f"forward {base}", lambda e=encoder: forward_speed(e, session.data.train, answering(task.truncation)))
    for method in (get_method(name) for name in session.methods):
        for base in session.bases:
            context = session.context(base, method.name, 0)
            if method.trained and skip_reason(method, context) is None:
                forward = session.speeds[f"forward {base}"]
                speed(f"{method.name} {base}", lambda m=method, c=context, f=forward: rehearse(m, c, f))
    reference = session.speeds[f"forward {task.models[0]}"].seconds_per_work
    rates = {}
    if task.budget.work is None and task.budget.minutes is not None:
        rates = {name: s.seconds_per_work / reference for name, s in session.speeds.items()}
        rates |= {
            f"{method} {base}": session.speeds[f"forward {base}"].seconds_per_work / reference
            for method in session.methods
            for base in session.bases
            if f"{method} {base}" not in rates
        }
    raw = ledger.once(
        "budget",
        "",
        lambda: {
            "work": work_of(task.budget, seconds_spent=session.clock.seconds, seconds_per_work=reference),
            "rates": rates,
        },
    )
    session.purse = Purse(total=raw["work"], trials=task.budget.trials, rates=raw["rates"])
    for base, counted in session.tokens.items():
        session.purse.pay("forward", base, counted["train"] + counted["race"], candidates=0)


def plan_rows(session: Session) -> list[PlanRow]:
    """What will be tried, in order, with expected time and memory."""
    return make_plan(session.methods, list(session.bases), session.context, session.speeds, session.purse)


def climb(session: Session, like: Candidate | None) -> list[Rung]:
    """Every rung with its trials."""
    stopper = Stopper(session.clock, hard_stop(session.task.budget))
    arena = _arena(session, stopper)
    for note in _threshold_notes(session):
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


def _threshold_notes(session: Session) -> list[str]:
    """How it is decided which of several labels a text is given; nothing where it has one."""
    tuned = METRICS.get(session.task.metric).several
    if not session.data.several or tuned is None:
        return []
    wanted_EL = session.context(session.task.models[0], session.methods[0], 0).wanted(session.race)
    return [threshold_note(wanted_EL, session.data.labels, tuned)]


def _earlier(session: Session) -> list[Earlier]:
    """Winners of earlier runs, as they were found when this run started."""
    folder = session.task.warm_start
    if folder is None:
        return []

    def read() -> Any:
        found = earlier_winners(Path(folder), rows=len(session.data.train), labels=len(session.data.labels))
        return [to_plain(each) for each in found]

    earlier = [Earlier(**plain) for plain in session.run.ledger.once("warm start", "", read)]
    session.watcher.say(f"warm start: {len(earlier)} configurations of earlier runs in {folder} are tried first.")
    return earlier


def _arena(session: Session, stopper: Stopper) -> Arena:
    targets = [example.target for example in session.race if example.target is not None]
    return Arena(session.run, session.task, stopper, session.watcher, targets, clusters_of(session.race))


def conclude(session: Session, rungs: list[Rung]) -> dict[str, Any]:
    """Choose on dev, write the choice down, open held_out, measure, and leave verdict, evidence, bundle and report."""
    task, run, labels = session.task, session.run, session.data.labels
    winners = [rung for rung in rungs if rung.best is not None]
    if not winners:
        reasons = "; ".join(f"{rung.name}: {rung.closed}" for rung in rungs if rung.closed)
        raise EndedEarly(f"nothing could be measured ({reasons})")
    studied = _study(session, rungs)
    predictors = {rung.name: _load(session, rung) for rung in winners}
    on_dev = [_on_dev(session, rung, predictors[rung.name]) for rung in winners]
    sizes = {name: base.info.parameters for name, base in session.bases.items()}
    seed_sds = {each.rung: each.seed_sd or 0.0 for each in studied}
    choice = choose_rung(on_dev, session.choose, task, labels, sizes, seed_sds)
    chosen = winners[choice.index]
    digest = hashlib.sha256(json.dumps([to_plain(w.best.candidate) for w in winners if w.best]).encode()).hexdigest()
    written = run.ledger.once("choice", "", lambda: {"chosen": chosen.name, "winners": digest, "why": choice.why})
    if (written["chosen"], written["winners"]) != (chosen.name, digest):
        raise RunError(
            f"{run.folder}: the choice written down ({written['chosen']}) is not the one made now ({chosen.name}). "
            "This machine does not compute what it did; start a new run."
        )

    held_out, notes = _open_held_out(session)
    for store in session.stores.values():
        store.add(held_out)
    on_held_out = [
        measure(
            rung,
            predictors[rung.name].predict(held_out),
            held_out,
            task,
            labels,
            on="held_out",
            ordered=session.data.ordered,
        )
        for rung in winners
    ]
    differences = versus_best(on_held_out, held_out, task, labels)
    for predictor in predictors.values():
        _uncached(predictor)
    latencies = [latency(predictors[rung.name], held_out) for rung in winners]

    verdict = _verdict(session, rungs, winners, on_dev, on_held_out, differences, latencies, choice)
    _add_study(verdict, studied, winners)
    verdict["notes"] = [*session.data.notes, *_threshold_notes(session), *notes]
    verdict["words"] = verdict_words(verdict)
    write_json(run.folder / "verdict.json", verdict)
    place = winners.index(chosen)
    thresholds = predictors[chosen.name].thresholds
    _write_evidence(session, rungs, chosen, held_out, on_dev, on_held_out, place, thresholds)
    _write_bundle(session, predictors[chosen.name], verdict)
    build_report(run.folder)
    session.watcher.budget(session.clock.seconds, None, int(session.purse.spent), session.purse.total)
    session.watcher.verdict(verdict)
    return verdict


def _study(session: Session, rungs: list[Rung]) -> list[Studied]:
    """Refits of the finalists, within the stated share of the work and while the clock allows."""
    stopper = Stopper(session.clock, hard_stop(session.task.budget))
    with stopper.listening():
        studied = Study(_arena(session, stopper), session.purse, session.context).run(rungs)
    if stopper.interrupted:
        raise EndedEarly("interrupted; what was done is saved")
    for each in studied:
        if each.more_data:
            session.watcher.say(f"{each.rung}: {each.more_data}.")
        if each.skipped:
            session.watcher.say(f"{each.rung}: not refitted ({'; '.join(each.skipped)}).")
    return studied


def _on_dev(session: Session, rung: Rung, predictor: Predictor) -> Measured:
    """Scores on the rows to choose by: with several folds, of the answers for rows that were not fitted on."""
    task, labels = session.task, session.data.labels
    if len(session.folds) == 1:
        predictions = predictor.predict(session.choose)
    else:
        assert rung.best is not None
        predictions = race_predictions(session.run.folder / str(rung.best.folder), labels)
    return measure(rung, predictions, session.choose, task, labels, on="choose")


def _load(session: Session, rung: Rung) -> Predictor:
    assert rung.best is not None
    predictor = load_predictor(
        session.run.folder / str(rung.best.folder) / "predictor", lambda name: session.bases[name]
    )
    if predictor.base is not None and hasattr(predictor, "features"):
        predictor.features = session.stores[rung.base]  # several rungs read the same vectors: compute them once
    return predictor


def _uncached(predictor: Predictor) -> None:
    if hasattr(predictor, "features"):
        predictor.features = None


def _open_held_out(session: Session) -> tuple[tuple[Example, ...], list[str]]:
    """The sealed rows, and what there is to say about them.

    The opening is recorded before they are read, so that a crash cannot hide it.
    """
    run, sealed = session.run, session.data.held_out
    run_id = run.ledger.once("run id", "", lambda: uuid.uuid4().hex)
    run.ledger.once("opening", "", lambda: {"data": sealed.fingerprint})
    session.openings = count_opening(sealed.fingerprint, run_id)
    held_out = sealed.open()
    overlap = leakage((*session.data.train, *session.data.dev), held_out, name="held_out")
    notes = [*sealed.notes, *(finding.sentence for finding in overlap)]
    for note in notes:
        session.watcher.say(f"held_out: {note}")
    return held_out, notes


def _verdict(
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


def _add_study(verdict: dict[str, Any], studied: Sequence[Studied], winners: Sequence[Rung]) -> None:
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


def _write_evidence(
    session: Session,
    rungs: Sequence[Rung],
    chosen: Rung,
    held_out: Sequence[Example],
    on_dev: Sequence[Measured],
    on_held_out: Sequence[Measured],
    place: int,
    thresholds: Thresholds,
) -> None:
    task, labels = session.task, session.data.labels
    evaluation = evaluate(
        on_held_out[place].predictions,
        held_out,
        METRICS.get(task.metric),
        labels=labels,
        level=task.level,
        rng=generator(task.seed, "slices"),
    )
    write_evidence(
        session.run.folder,
        Evidence(
            data=session.data,
            held_out=held_out,
            choose=session.choose,
            findings=session.findings,
            lengths=session.tokens[task.models[0]],
            max_tokens=session.bases[task.models[0]].info.max_tokens,
            policy=task.truncation,
            notes=session.data.notes,
            trials=[
                (rung.method.name, rung.base, trial, trial is chosen.best) for rung in rungs for trial in rung.trials
            ],
            predictions=[
                (m.rung.method.name, m.rung.base, part, rows, m.predictions, m.rung is chosen)
                for part, rows, group in (("dev", session.choose, on_dev), ("held_out", held_out, on_held_out))
                for m in group
            ],
            evaluation=evaluation,
            chosen_predictions=on_held_out[place].predictions,
            thresholds=thresholds,
            features=session.stores[chosen.base],
        ),
    )


def _write_bundle(session: Session, predictor: Predictor, verdict: Mapping[str, Any]) -> None:
    task = session.task
    probes, columns, several = session.choose[:PROBES], session.data.columns, session.data.several
    save_bundle(
        predictor,
        session.run.folder / "bundle",
        task_name=task.name,
        kind=task.kind,
        columns=session.data.columns.inputs,
        policy=task.truncation,
        probes=probes,
        card=model_card(verdict),
        extra={"chosen": dict(verdict["chosen"]), "metric": task.metric, "ordered": session.data.ordered}
        | ({"target": columns.targets or columns.target, "label_separator": columns.separator} if several else {}),
    )


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


def leave_early(task: Task, run: Run, reason: str) -> None:
    """A verdict.json that says the run has none yet."""
    verdict = {
        **_frame(task),
        "chosen": None,
        "rungs": [],
        "notes": [reason],
        "words": f"No verdict yet: {reason}.",
    }
    write_json(run.folder / "verdict.json", verdict)


def task_text(task: Task) -> str:
    """The resolved task as YAML; data given as Python objects are named by their type."""
    raw = to_plain(_without_objects(task))
    return yaml.safe_dump(_dropping_none(raw), sort_keys=False, allow_unicode=True)


def _without_objects(task: Task) -> dict[str, Any]:
    def named(value: Any) -> Any:
        if isinstance(value, (str, Path)):
            scheme = re.match(r"[a-z]{2,}:", str(value))
            return str(value) if scheme else str(Path(value).absolute())
        return None if value is None else f"python:{type(value).__name__}"

    data = dataclasses.replace(
        task.data, train=named(task.data.train), dev=named(task.data.dev), held_out=named(task.data.held_out)
    )
    return {f.name: getattr(task, f.name) for f in dataclasses.fields(task)} | {"data": dataclasses.asdict(data)}


def _dropping_none(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {key: _dropping_none(value) for key, value in raw.items() if value is not None}
    return raw
