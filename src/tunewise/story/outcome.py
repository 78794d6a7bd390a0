"""After the climb: choose on dev, open held_out once, measure, and leave evidence, bundle and report."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.data.audit.duplicates import leakage
from tunewise.errors import EndedEarly, RunError
from tunewise.evaluation.choice import amount
from tunewise.evaluation.evaluate import evaluate
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.optimism import optimism
from tunewise.predictors.base import Predictor
from tunewise.predictors.bundle import load_predictor, save_bundle
from tunewise.predictors.several import Thresholds
from tunewise.report.build import build_report
from tunewise.report.card import model_card
from tunewise.report.evidence import Evidence, write_evidence
from tunewise.report.verdict import verdict_words
from tunewise.runs import count_opening, write_json
from tunewise.search.budget import hard_stop
from tunewise.search.climb import Rung
from tunewise.search.finalists import Measured, choose_rung, clusters_of, latency, measure, versus_best
from tunewise.search.saved import race_predictions, race_statistics
from tunewise.search.stopper import Stopper
from tunewise.search.study import Studied, Study
from tunewise.seeding import generator
from tunewise.story.session import Session, arena_of, finish_seconds, threshold_notes
from tunewise.story.verdict import add_study, verdict_of
from tunewise.types import Example, Kind, to_plain

PROBES = 16


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
    luck, luck_notes = _luck(session, winners, on_dev)
    choice = choose_rung(on_dev, session.choose, task, labels, sizes, seed_sds, luck)
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

    verdict = verdict_of(session, rungs, winners, on_dev, on_held_out, differences, latencies, choice)
    add_study(verdict, studied, winners)
    verdict["notes"] = [*session.data.notes, *threshold_notes(session), *luck_notes, *notes]
    verdict["notes"] += unparsable_notes(on_held_out, task.kind)
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


def unparsable_notes(measured: Sequence[Measured], kind: Kind) -> list[str]:
    """How many labels that were written are none, of each rung that writes them."""
    found = []
    for each in measured:
        if kind == "classify" and all(answer.scores is None for answer in each.predictions):
            none = sum(answer.abstained for answer in each.predictions)
            found.append(
                f"{each.rung.name} writes its labels: {none:,} of {len(each.predictions):,} answers on held_out are no "
                "label and count as wrong."
            )
    return found


def _study(session: Session, rungs: list[Rung]) -> list[Studied]:
    """Refits of the finalists, within the stated share of the work and while the clock allows."""
    if session.run.ledger.recall("like"):
        return []  # the one candidate of another run, made again: nothing is searched or studied
    stopper = Stopper(session.clock, hard_stop(session.task.budget, finish_seconds(session)))
    with stopper.listening():
        arena = arena_of(session, stopper)
        stopped = session.run.ledger.recall("clock stop")
        arena.clock_stopped = stopped is not None and not str(stopped).startswith("study-")
        studied = Study(arena, session.purse, session.context).run(rungs)
    if stopper.interrupted:
        raise EndedEarly("interrupted; what was done is saved")
    for each in studied:
        if each.more_data:
            session.watcher.say(f"{each.rung}: {each.more_data}.")
        if each.skipped:
            session.watcher.say(f"{each.rung}: not refitted ({'; '.join(each.skipped)}).")
    return studied


def _luck(session: Session, winners: Sequence[Rung], on_dev: Sequence[Measured]) -> tuple[dict[str, float], list[str]]:
    """By rung, what its winner's score owes to having been picked by the rows that score it, and that in words."""
    if session.choose != session.race:
        return {}, []
    metric, found, notes = METRICS.get(session.task.metric), {}, []
    for rung, measured in zip(winners, on_dev, strict=True):
        tables = [own for folder in rung.folders for own in race_statistics(session.run.folder / folder)]
        found[rung.name] = optimism(
            measured.statistics,
            tables,
            metric,
            n_labels=len(session.data.labels),
            clusters=clusters_of(session.choose),
            rng=generator(session.task.seed, "optimism"),
        )
        if found[rung.name] > 0:
            notes.append(
                f"{rung.name}: the same rows picked the best of {len(tables)} candidates and score it; the choice "
                f"counts it {amount(metric, found[rung.name])} worse."
            )
    for note in notes:
        session.watcher.say(note)
    return found, notes


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
        | ({"target": columns.targets or columns.target, "label_separator": columns.separator} if several else {})
        | ({"target": columns.targets or columns.target} if columns.written and columns.layout is None else {})
        | ({"conversations": True} if columns.layout is not None else {}),
    )
