"""One bracket from opening to trials: advance, compare, shrink, measure; crashes become Failed trials with a reason."""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tunewise.errors import EndedEarly, RunError, TunewiseError
from tunewise.evaluation.cost import PeakMemory
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.several import find_thresholds, probabilities
from tunewise.evaluation.texts import mean_known
from tunewise.methods.base import Bracket, Context, Method
from tunewise.methods.folded import FoldedBracket, RefitFailed, open_bracket
from tunewise.predictors.several import Thresholds, judged_again
from tunewise.runs import atomic_folder, folder_bytes
from tunewise.search.arena import Arena
from tunewise.search.halving import Decision, Look, Measured, decide, looks, pilots
from tunewise.search.losses import look_losses, member_losses
from tunewise.search.saved import curve_from_plain, trial_from_plain, write_race
from tunewise.search.stopper import OutOfTime
from tunewise.search.winner import ranked
from tunewise.seeding import generator
from tunewise.training.checkpoint import load_checkpoint, save_checkpoint
from tunewise.types import Candidate, Finished, Prediction, Status, Trial, Unfinished, to_plain

SLICES = 40
"""Parts of a horizon between which interruptions and the clock are looked at."""
SLICE_SECONDS = 2.0
"""Above which the next part is made shorter, so that Ctrl-C and the clock are never far away."""
CHECKPOINT_SECONDS = 20.0
WRITTEN_AT_ONCE = 64
"""Texts of each member that are written before it is seen whether to go on."""


def run_bracket(
    arena: Arena,
    method: Method,
    context: Context,
    configs: Sequence[Any],
    *,
    name: str,
    halve: bool,
    serve: bool = True,
) -> list[Trial]:
    """One trial per config; read from the ledger where the bracket was finished in an earlier sitting.

    The best finished member (by metric on race; among members within one paired standard error of it, the one with
    the lowest loss) is saved as `trials/<name>/predictor`, unless nothing is to `serve` it.

    Raises:
        EndedEarly: interrupted; a checkpoint was written.
    """
    done = arena.run.ledger.recall("bracket", name)
    cut_off = arena.run.ledger.recall("clock stop") == name
    arena.clock_stopped = arena.clock_stopped or cut_off
    if done is not None:
        return [trial_from_plain(item) for item in done]
    candidates = [Candidate(method=method.name, base=context.base.info.name, config=to_plain(c)) for c in configs]
    trials: list[Trial]
    started = time.monotonic()
    race = _Race(arena, method, context, candidates, name, serve)

    def all_without_result(status: Any, reason: str) -> list[Trial]:
        seconds = (time.monotonic() - started) / len(candidates)
        return [
            Unfinished(candidate=candidate, status=status, reason=reason, work=spent, seconds=seconds)
            for candidate, spent in zip(candidates, map(int, race.spent), strict=True)
        ]

    try:
        if cut_off:  # an earlier sitting was killed between the stop and its record
            raise OutOfTime
        trials = race.run(configs, halve=halve)
    except OutOfTime:
        reason = "cut off by the clock before it reached its horizon"
        arena.run.ledger.once("clock stop", "", lambda: name)
        arena.clock_stopped = True
        trials = all_without_result(Status.OUT_OF_BUDGET, reason)
    except (EndedEarly, RunError, KeyboardInterrupt):
        raise  # nothing is wrong with the candidates: the run cannot go on here and now
    except TunewiseError as error:
        trials = all_without_result(Status.FAILED, str(error))
    except Exception as error:  # noqa: BLE001 - a method that crashes is a result of this run, not its end
        reason = f"{type(error).__name__}: {str(error)[:500] or 'no message'}"
        trials = all_without_result(Status.FAILED, reason)
    arena.run.ledger.record("bracket", name, [to_plain(trial) for trial in trials])
    arena.run.ledger.update("clock", "", arena.stopper.clock.seconds)
    shutil.rmtree(race.folder / "checkpoints", ignore_errors=True)
    return trials


def look_work(context: Context) -> int:
    """Of reading one member's answers at a look."""
    tokens = context.race_tokens * len(context.folds)
    return round(tokens * min(1.0, context.watched_rows / max(1, len(context.race))))


@dataclass
class _Race:
    arena: Arena
    method: Method
    context: Context
    candidates: list[Candidate]
    name: str
    serve: bool

    def __post_init__(self) -> None:
        self.folder: Path = self.arena.run.folder / "trials" / self.name
        self.seconds = 0.0
        self.work = 0
        self.alive = list(range(len(self.candidates)))
        self.reached = [0] * len(self.candidates)
        """Fidelity of each candidate."""
        self.read_at = [0] * len(self.candidates)
        """Fidelity of each candidate when its answers were read last."""
        self.measured: list[Measured] = []
        self.stages_done = 0
        self.saved_at = time.monotonic()
        # in exact shares, so that they add up to the same whatever the slices were
        self.spent = [Fraction(0)] * len(self.candidates)
        self.left: dict[int, dict[str, Any]] = {}
        """Reason and curve of members that left the race, and whether they failed."""
        self.look_work = look_work(self.context)
        self.rows = tuple(self.context.watched(self.context.race))

    def run(self, configs: Sequence[Any], *, halve: bool) -> list[Trial]:
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with PeakMemory() as memory:
            recorded = self.arena.run.ledger.recall("layout", self.name)
            bracket = open_bracket(self.method, dataclasses.replace(self.context, layout=recorded), configs)
            for note in bracket.notes if recorded is None else ():
                self.arena.watcher.say(note)
            self.arena.run.ledger.once("layout", self.name, lambda: bracket.layout or [])
            try:
                self._restore(bracket)
                self._advance(bracket, halve=halve)
                try:
                    trials = self._measure(bracket)
                except EndedEarly:
                    self._checkpoint(bracket, started - self.seconds)
                    raise
            finally:
                bracket.close()
        seconds = self.seconds + time.monotonic() - started
        share = [trial.work / max(1, sum(t.work for t in trials)) if self.work else 1 / len(trials) for trial in trials]
        return [
            dataclasses.replace(trial, seconds=seconds * part, peak_memory_bytes=memory.bytes)
            if isinstance(trial, Finished)
            else dataclasses.replace(trial, seconds=seconds * part)
            for trial, part in zip(trials, share, strict=True)
        ]

    def _restore(self, bracket: Bracket) -> None:
        found = load_checkpoint(self.folder / "checkpoints", self.arena.watcher.say)
        if found is None:
            return
        _, tensors, meta = found
        bracket.restore(tensors, meta["bracket"])
        self.alive = [int(i) for i in meta["alive"]]
        self.stages_done, self.work, self.seconds = int(meta["stages_done"]), int(meta["work"]), float(meta["seconds"])
        self.spent = [Fraction(part) for part in meta["spent"]]
        self.reached = [int(fidelity) for fidelity in meta["reached"]]
        self.read_at = [int(fidelity) for fidelity in meta["read_at"]]
        self.measured = [Measured(**each) for each in meta["measured"]]
        self.left = {int(member): gone for member, gone in meta["left"].items()}

    def _advance(self, bracket: Bracket, *, halve: bool) -> None:
        """To the horizon, by way of the looks at which members leave."""
        started = time.monotonic() - self.seconds
        for number, (mark, look) in enumerate(looks(len(self.candidates), bracket.horizon) if halve else ()):
            if number < self.stages_done or not self.alive:
                continue
            ahead = pilots(bracket.size) if look == "pilots" else bracket.size
            self._to(bracket, mark, range(ahead), started)
            self._shrink(bracket, number, look)
            self.stages_done = number + 1
        if self.alive:
            self._to(bracket, bracket.horizon, range(bracket.size), started)

    def _to(self, bracket: Bracket, target: int, members: range, started: float) -> None:
        """Bring these members to the target, in slices."""
        method, base = self.method.name, self.context.base.info.name
        step = max(1, bracket.horizon // SLICES)
        who = [self.alive[member] for member in members]
        while (at := min(self.reached[candidate] for candidate in who)) < target:
            to = min(target, at + step)
            before = time.monotonic()
            work = bracket.advance(to, None if len(who) == bracket.size else members)
            if time.monotonic() - before > SLICE_SECONDS:
                step = max(1, step // 2)  # how a bracket is sliced does not change its results
            self.work += work
            behind = [candidate for candidate in who if self.reached[candidate] < to]
            for candidate in behind:
                self.spent[candidate] += Fraction(work, len(behind))
                self.reached[candidate] = to
            self.arena.watcher.progress(method, base, to / bracket.horizon, f"{bracket.size} in the race")
            if bracket.fidelity >= bracket.horizon:
                return  # it is complete: what remains is to measure it
            try:
                self.arena.stopper.check()
            except EndedEarly:
                self._checkpoint(bracket, started)
                raise
            if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self._checkpoint(bracket, started)

    def _checkpoint(self, bracket: Bracket, started: float) -> None:
        self.saved_at = time.monotonic()
        self.arena.run.ledger.update("clock", "", self.arena.stopper.clock.seconds)
        tensors, meta = bracket.state()
        needed = sum(tensor.nbytes for tensor in tensors.values())
        held = folder_bytes(self.arena.run.folder)
        if needed + held > self.arena.task.disk_gb * 1e9:
            self.arena.watcher.say(
                f"no checkpoint: it would take the run to {(needed + held) / 1e9:.1f} GB, more than the "
                f"{self.arena.task.disk_gb:g} GB that `disk_gb` allows; stopped now, this bracket would start again."
            )
            return
        own = {
            "bracket": meta,
            "alive": self.alive,
            "stages_done": self.stages_done,
            "work": self.work,
            "spent": [str(part) for part in self.spent],
            "reached": self.reached,
            "read_at": self.read_at,
            "measured": to_plain(self.measured),
            "left": self.left,
            "seconds": time.monotonic() - started,
        }
        save_checkpoint(self.folder / "checkpoints", sum(self.reached), tensors, own)  # a number that always grows

    def _shrink(self, bracket: Bracket, number: int, look: Look) -> None:
        now_PE = look_losses(bracket, self.context, self.rows)
        self._charge_look(bracket)
        path = self.folder / "losses-before.npy"

        def choose() -> dict[str, Any]:
            rng = generator(self.context.seed, "halving", number)
            before_PE = None if look == "start" else np.load(path)[self.alive]
            return dict(to_plain(decide(look, before_PE, now_PE, self.measured, rng=rng)))

        plain = self.arena.run.ledger.once("halving", f"{self.name}/{number}", choose)
        measured = None if plain["measured"] is None else Measured(**plain["measured"])
        decision = Decision(**{**plain, "keep": tuple(plain["keep"]), "measured": measured})
        if measured is not None:
            self.measured.append(measured)
        if look != "pilots":  # those behind are not comparable with the pilots, and the pilots are looked at again
            everyone_PE = np.full((len(self.candidates), now_PE.shape[1]), np.nan)
            everyone_PE[self.alive] = now_PE
            np.save(path, everyone_PE)
        for member in range(len(self.alive)):
            if member not in decision.keep:
                share = self.reached[self.alive[member]] / bracket.horizon
                order = f" (trust in the order {decision.trust:.2f})" if self.measured else ""
                why = f"left the race at {share:.0%} of its horizon: {decision.why}{order}"
                failed = bracket.failure(member)
                self.left[self.alive[member]] = {
                    "failed": failed is not None,
                    "reason": why if failed is None else failed,
                    "curve": to_plain(bracket.curve(member)),
                }
        if decision.keep and len(decision.keep) < len(self.alive):
            bracket.keep(decision.keep)
        self.alive = [self.alive[i] for i in decision.keep]

    def _charge_look(self, bracket: Bracket) -> None:
        """To those whose answers were read: who has not moved since, or is remembered, is not read again."""
        for member, candidate in enumerate(self.alive):
            if self.read_at[candidate] != self.reached[candidate]:
                self.read_at[candidate] = self.reached[candidate]
                self._charge(candidate, 0 if bracket.remembers(member) else self.look_work, bracket, member)

    def _charge_closing(self, bracket: Bracket) -> None:
        """For race rows that a trained member's evaluations did not read."""
        closing = self.context.closing_tokens * len(self.context.folds) if self.method.trained else 0
        for member, candidate in enumerate(self.alive):
            self._charge(candidate, closing, bracket, member)

    def _charge(self, candidate: int, tokens: int, bracket: Bracket, member: int) -> None:
        work = bracket.reading_work(member, tokens) if tokens else 0
        self.work += work
        self.spent[candidate] += work

    def _failed(self, bracket: Bracket, member: int, score: float, loss: float, *, scored: bool) -> str | None:
        """Why a member that reached its horizon has no usable result, or None."""
        if (reason := bracket.failure(member)) is not None:
            return reason
        unknown = np.isnan(loss) and (self.context.task.kind == "generate" or not scored)
        return None if np.isfinite(score) and (unknown or np.isfinite(loss)) else "its score or loss is not finite"

    def _measure(self, bracket: Bracket) -> list[Trial]:
        metric = METRICS.get(self.arena.task.metric)
        n = len(self.context.labels)
        predictions = self._answers(bracket) if self.alive else []
        self._charge_closing(bracket)
        thresholds: list[Thresholds] = [None] * len(predictions)
        if self.context.several:
            thresholds = [self._thresholds(row) for row in predictions]
            predictions = [
                judged_again(row, low) if low else row for row, low in zip(predictions, thresholds, strict=True)
            ]
        table_P = [self.arena.judge(row, self.context.labels) if row else None for row in predictions]
        score_P = np.array([np.nan if table is None else metric.aggregate(table, n) for table in table_P])
        mean = mean_known if self.context.task.kind == "generate" else np.mean
        losses = [member_losses(row, self.context) for row in predictions]
        loss_P = np.array([mean(loss_E) for loss_E in losses])
        scored_P = [any(prediction.scores is not None for prediction in row) for row in predictions]
        failed_P = [self._failed(bracket, p, score_P[p], loss_P[p], scored=scored_P[p]) for p in range(len(table_P))]
        order = ranked(self.arena, self.context, table_P=table_P, score_P=score_P, losses=losses, failed_P=failed_P)
        tables = [table_P[p] for p in sorted(order)]
        best = None
        for p in order:
            failed_P[p] = self._save(bracket, p, predictions[p], thresholds[p], tables)
            if failed_P[p] is None:
                best = p
                break
        return [self._trial(bracket, member, score_P, loss_P, failed_P, best) for member in range(len(self.candidates))]

    def _answers(self, bracket: Bracket) -> list[list[Prediction]]:
        """Of each member on race; texts are written in parts, between which a run may be stopped."""
        n = len(self.context.race)
        if self.context.task.kind != "generate" or not self.method.trained:
            return bracket.predictions()
        found: list[list[Prediction]] = [[] for _ in self.alive]
        said = set(bracket.notes)
        for start in range(0, n, WRITTEN_AT_ONCE):
            self.arena.stopper.check()
            rows = tuple(range(start, min(n, start + WRITTEN_AT_ONCE)))
            for own, more in zip(found, bracket.predictions(rows), strict=True):
                own.extend(more)
        for note in bracket.notes:
            if note not in said:
                self.arena.watcher.say(note)
        return found

    def _trial(
        self,
        bracket: Bracket,
        member: int,
        score_P: np.ndarray,
        loss_P: np.ndarray,
        failed_P: Sequence[str | None],
        best: int | None,
    ) -> Trial:
        candidate, work = self.candidates[member], int(self.spent[member])
        if member not in self.alive:
            gone = self.left[member]
            return Unfinished(
                candidate=candidate,
                status=Status.FAILED if gone["failed"] else Status.OUT_OF_BUDGET,
                reason=gone["reason"],
                work=work,
                curve=curve_from_plain(gone["curve"]),
            )
        place = self.alive.index(member)
        if (reason := failed_P[place]) is not None:
            return Unfinished(candidate=candidate, status=Status.FAILED, reason=reason, work=work)
        return Finished(
            candidate=candidate,
            score=float(score_P[place]),
            loss=None if np.isnan(loss_P[place]) else float(loss_P[place]),
            work=work,
            seconds=0.0,
            peak_memory_bytes=0,
            trainable_parameters=bracket.trainable_parameters(place),
            folder=f"trials/{self.name}" if place == best else None,
            curve=bracket.curve(place),
        )

    def _thresholds(self, predictions: Sequence[Prediction]) -> Thresholds:
        """Where each label is given, found on the race rows; None where there are no answers to find it on."""
        tuned = METRICS.get(self.arena.task.metric).several
        if not predictions or tuned is None:
            return None
        share_EL = probabilities(predictions, self.context.labels)
        return find_thresholds(share_EL, self.context.wanted(self.context.race), tuned)

    def _save(
        self,
        bracket: Bracket,
        member: int,
        predictions: Sequence[Prediction],
        thresholds: Thresholds,
        tables: Sequence[np.ndarray | None],
    ) -> str | None:
        """Save a member that is to serve; why that failed, or None. A refit on all rows is paid for either way."""
        if self.serve:
            try:
                predictor = bracket.predictor(member)
            except RefitFailed as error:
                return str(error)
            finally:
                if isinstance(bracket, FoldedBracket):
                    self.work += bracket.spent_on_refits
                    self.spent[self.alive[member]] += bracket.spent_on_refits
                    bracket.spent_on_refits = 0
            predictor.thresholds = thresholds
            with atomic_folder(self.folder / "predictor") as part:
                predictor.save(part)
        with atomic_folder(self.folder / "race") as part:
            write_race(part, predictions, self.context.labels, tables=tables, thresholds=thresholds)
        return None
