"""Climb the ladder: one default candidate per rung, then brackets where tuning may still change the answer."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from tunewise.config import from_plain
from tunewise.evaluation.intervals import interval
from tunewise.evaluation.metrics import METRICS
from tunewise.methods import get_method
from tunewise.methods.base import Context, Method, Real, default_of, proposed, settled, skip_reason
from tunewise.methods.folded import cost_of, refit_work
from tunewise.search.arena import Arena
from tunewise.search.budget import Purse
from tunewise.search.halving import expected_looks, expected_share
from tunewise.search.losses import member_losses
from tunewise.search.prior import Earlier, first_to_try
from tunewise.search.saved import race_predictions
from tunewise.search.space import FixedGrid, OptunaSpace
from tunewise.search.trial import look_work, run_bracket
from tunewise.search.winner import ranked
from tunewise.seeding import derive, generator
from tunewise.training.diagnosis import diagnose, nudge
from tunewise.types import Candidate, Finished, Prediction, Status, Trial, Unfinished, to_plain

MAX_BRACKET = 16
ALL_DEFAULTS = 0.5
"""Of the search's work that defaults may take before brackets; the rungs that are left wait for what brackets leave."""
ASKING = 0.1
"""Of what is left, what a rung that trains nothing may take with all its candidates, beyond its first."""
PRUDENCE = 0.85
"""Share of the room that a bracket is sized for: its candidates may be slower than the default that was timed."""
SMALL_RACE = expected_share(3)
"""Full runs of one candidate that the smallest bracket worth opening is expected to take."""
TUNING_GAIN = 0.03
"""What tuning is assumed to add to a default, in units of the metric, until a bracket of this run has shown more."""


@dataclass
class Rung:
    """What is known of one method on one base."""

    method: Method
    base: str
    trials: list[Trial] = field(default_factory=list)
    best: Finished | None = None
    brackets: int = 0
    folders: list[str] = field(default_factory=list)
    """Of the brackets in which something was measured, within the run's folder."""
    searched: bool = False
    """Whether two or more candidates beside its default were raced."""
    closed: str | None = None
    """Why nothing more is tried on it."""
    beaten: bool = False
    """Whether that is because even its optimistic bound cannot win."""

    @property
    def name(self) -> str:
        return f"{self.method.name} on {self.base}"


@dataclass
class Climb:
    """All rungs of a run, tried in a fixed order that depends on recorded results only."""

    arena: Arena
    purse: Purse
    context_of: Callable[[str, str, int], Context]
    """Context for (base, method, bracket index)."""
    bases: Sequence[str]
    methods: Sequence[str]
    refusals: Mapping[str, str] = field(default_factory=dict)
    """By "method base": why a rung cannot be tried on this machine."""
    like: Candidate | None = None
    """Make only this candidate, without a search."""
    earlier: Sequence[Earlier] = ()
    """What won in other runs, to be tried first."""
    rungs: list[Rung] = field(default_factory=list)
    waiting: list[Rung] = field(default_factory=list)
    """Rungs whose default is tried with what the brackets of the others leave."""

    def run(self) -> list[Rung]:
        """Every rung with its trials; a rung that was not tried has one Unfinished trial with the reason.

        Raises:
            EndedEarly: interrupted; a resumed run goes on where this one stopped.
        """
        if self.like is not None:
            self._again(self.like)
            return self.rungs
        for name in in_turn(self.methods):
            for base in self.bases:
                rung = Rung(method=get_method(name), base=base)
                price = self._default_price(rung)
                if price > 0 and self.purse.beyond(ALL_DEFAULTS, price):
                    self.waiting.append(rung)
                else:
                    self._default(rung)
        self._brackets()
        while self.waiting:
            self._default(self.waiting.pop(0))
        self._brackets()
        return self.rungs

    def _default_price(self, rung: Rung) -> float:
        """Of its default, in units of the purse; 0 where it needs no training or is skipped."""
        method, context = rung.method, self.context_of(rung.base, rung.method.name, 0)
        if not method.trained or skip_reason(method, context) is not None:
            return 0.0
        config = default_of(method, context)
        work = cost_of(method, context, config).work + refit_work(method, context, config)
        return self.purse.price(method.name, rung.base, work)

    def _reserve(self) -> float:
        """Kept back for rungs that wait: the first is sure of its default, others within a third of what is left."""
        kept = 0.0
        for rung in self.waiting:
            price = self._default_price(rung)
            if kept and kept + price > self.purse.left / 3:
                break
            kept += price
        return kept

    def _brackets(self) -> None:
        """Search the open rungs, as long as there is one and its bracket fits."""
        place = {name: i for i, name in enumerate(self.methods)}
        self.rungs.sort(key=lambda rung: place[rung.method.name])
        while (rung := self._next()) is not None:
            self._search(rung)

    def _again(self, candidate: Candidate) -> None:
        """The one candidate that another run chose."""
        rung = Rung(method=get_method(candidate.method), base=candidate.base)
        self.rungs.append(rung)
        config: Any = from_plain(rung.method.Config, candidate.config, where=candidate.method)
        self._bracket(rung, self.context_of(rung.base, rung.method.name, 0), [config], halve=False)

    def _default(self, rung: Rung) -> None:
        self.rungs.append(rung)
        method, base = rung.method, rung.base
        context = self.context_of(base, method.name, 0)
        skip = skip_reason(method, context)
        if skip is not None:
            self._stay_out(rung, Candidate(method=method.name, base=base, config={}), Status.SKIPPED, skip)
            return
        config = default_of(method, context)
        candidate = Candidate(method=method.name, base=base, config=to_plain(config))
        cost = cost_of(method, context, config)
        price = self.purse.price(method.name, base, cost.work + refit_work(method, context, config))
        refusal = self.refusals.get(f"{method.name} {base}")
        if self.arena.clock_stopped:
            self._stay_out(rung, candidate, Status.OUT_OF_BUDGET, "the clock ended the search before it was tried")
            return
        if refusal is not None:
            self._stay_out(rung, candidate, Status.SKIPPED, refusal)
        elif self.purse.trials_left < 1:
            self._stay_out(rung, candidate, Status.OUT_OF_BUDGET, "the budget's trials are used up")
        elif price > self.purse.left:
            reason = (
                f"one candidate is expected to take {price:,.0f} units of work, {self.purse.left:,.0f} are left "
                "for the search; give a larger budget to climb this rung"
            )
            self._stay_out(rung, candidate, Status.OUT_OF_BUDGET, reason)
        else:
            configs = [config]
            if not method.trained:
                untried = len(self.methods) * len(self.bases) - len(self.rungs)
                room = most_asked(self.purse.trials_left - 1 - untried, self.purse.left, price)
                configs += proposed(method, context, FixedGrid(), generator(context.seed, "propose"), room)
            self._bracket(rung, context, configs, halve=False)

    def _stay_out(self, rung: Rung, candidate: Candidate, status: Any, reason: str) -> None:
        rung.trials.append(Unfinished(candidate=candidate, status=status, reason=reason))
        rung.closed = reason
        self.arena.watcher.rung(rung.method.name, rung.base, status.value, reason)

    def _bracket(self, rung: Rung, context: Context, configs: Sequence[Any], *, halve: bool) -> list[Trial]:
        method, base = rung.method.name, rung.base
        index = rung.brackets
        self.arena.watcher.rung(
            method, base, "running", f"{len(configs)} candidates" if len(configs) > 1 else "default"
        )
        name = f"{method}-{self.bases.index(base)}-{index}"
        trials = run_bracket(self.arena, rung.method, context, configs, name=name, halve=halve)
        self.purse.pay(method, base, sum(trial.work for trial in trials), len(configs))
        rung.trials.extend(trials)
        rung.brackets += 1
        rung.searched = rung.searched or (halve and len(configs) > 1)
        if not any(isinstance(trial, Finished) for trial in trials):
            rung.closed = f"closed: no candidate of its last bracket finished ({_reason(trials[-1])})"
        winner = next((t for t in trials if isinstance(t, Finished) and t.folder is not None), None)
        rung.folders += [] if winner is None else [str(winner.folder)]
        if winner is not None and rung.best is None:
            rung.best = winner
        elif winner is not None and rung.best is not None:
            rung.best, loser = self._ranked(rung.best, winner, context)
            # its answers stay, for the comparisons of a resumed run; its weights are not needed again
            shutil.rmtree(self.arena.run.folder / str(loser.folder) / "predictor", ignore_errors=True)
        self._tell(rung, context)
        return trials

    def _ranked(self, old: Finished, new: Finished, context: Context) -> tuple[Finished, Finished]:
        """The better one first, as members of one bracket are ranked."""
        both = (old, new)
        answers = [self._answers(trial, context) for trial in both]
        first, second = ranked(
            self.arena,
            context,
            table_P=[self.arena.judge(own, context.labels) for own in answers],
            score_P=np.array([trial.score for trial in both]),
            losses=[member_losses(own, context) for own in answers],
            failed_P=[None, None],
        )
        return both[first], both[second]

    def _answers(self, trial: Finished, context: Context) -> list[Prediction]:
        return race_predictions(self.arena.run.folder / str(trial.folder), context.labels)

    def _table(self, trial: Finished, context: Context) -> np.ndarray:
        return self.arena.judge(self._answers(trial, context), context.labels)

    def _tell(self, rung: Rung, context: Context) -> None:
        watcher, method, base = self.arena.watcher, rung.method.name, rung.base
        seconds = sum(trial.seconds for trial in rung.trials)
        clock = self.arena.stopper.clock
        if rung.best is not None:
            metric = METRICS.get(self.arena.task.metric)
            rng = generator(context.seed, "shown")
            table = self._table(rung.best, context)
            score = interval(
                metric, table, n_labels=len(context.labels), clusters=self.arena.clusters, rng=rng, draws=400
            )
            watcher.score(method, base, score, seconds, len(rung.trials))
            watcher.rung(method, base, "finished", "")
        else:
            last = rung.trials[-1]
            rung.closed = last.reason if isinstance(last, Unfinished) else None
            watcher.rung(method, base, last.status.value, rung.closed or "")
        minutes = self.arena.task.budget.minutes
        total = None if minutes is None else 60 * minutes
        watcher.budget(clock.seconds, total, int(self.purse.spent), self.purse.total)

    def _next(self) -> Rung | None:
        """The rung whose bracket is due: the least searched, and of those the one that may still score highest."""
        finished = [rung for rung in self.rungs if rung.best is not None]
        if not finished or self.arena.clock_stopped:
            return None
        sign = 1.0 if METRICS.get(self.arena.task.metric).greater_is_better else -1.0
        leader = max(sign * rung.best.score for rung in finished if rung.best)
        open_rungs = []
        for rung in finished:
            if not rung.method.trained or rung.closed is not None:
                continue
            bound = self._optimistic(rung)
            if bound < leader - self.arena.task.margin:
                rung.beaten = True
                tried = "1 candidate" if len(rung.trials) == 1 else f"{len(rung.trials)} candidates"
                rung.closed = (
                    f"closed after {tried}: even its optimistic bound, {sign * bound:.3f}, "
                    f"is not within the margin of the best, {sign * leader:.3f}"
                )
                self.arena.watcher.rung(rung.method.name, rung.base, "closed", rung.closed)
                continue
            open_rungs.append((rung.brackets, -bound, rung))
        return min(open_rungs, key=lambda item: item[:2])[2] if open_rungs else None

    def _optimistic(self, rung: Rung) -> float:
        """Upper end of the best candidate's 95 % interval on race, plus what tuning has been seen to add."""
        assert rung.best is not None
        context = self.context_of(rung.base, rung.method.name, rung.brackets)
        metric = METRICS.get(self.arena.task.metric)
        rng = generator(context.seed, "bound")
        table = self._table(rung.best, context)
        score = interval(metric, table, n_labels=len(context.labels), clusters=self.arena.clusters, rng=rng, draws=400)
        sign = 1.0 if metric.greater_is_better else -1.0
        gains = [
            sign * (other.best.score - first.score)
            for other in self.rungs
            if other.best and other.searched and isinstance(first := other.trials[0], Finished)
        ]
        untuned = 0.0 if rung.searched else max([TUNING_GAIN, *gains])
        return max(sign * score.low, sign * score.high) + untuned

    def _search(self, rung: Rung) -> None:
        method, base = rung.method, rung.base
        context = self.context_of(base, method.name, rung.brackets)
        hint, nudged = self._heeded(rung)
        nudged = _new([settled(method, context, each) for each in nudged], rung)
        config = settled(method, context, _with_epochs(default_of(method, context), hint))

        def price(of: Any) -> float:
            return self.purse.price(method.name, base, cost_of(method, context, of).work)

        one = max(map(price, [config, *nudged]))
        refit = self.purse.price(method.name, base, refit_work(method, context, config))
        look = self.purse.price(method.name, base, look_work(context))
        left = self.purse.left - self._reserve()
        trials = self.purse.trials_left - len(self.waiting)
        rivals = [r for r in self.rungs if r.best and r.method.trained and r.closed is None]
        in_turn_now = sum(r.brackets == rung.brackets for r in rivals)
        # a fair share, but for the most promising one at least what a small race takes
        room = max(left / max(1, in_turn_now), min(left, SMALL_RACE * one / PRUDENCE + refit))
        n = min(largest_bracket(room - refit, one, look), trials, self._held_at_once(rung, config, context))
        if n < 2 and nudged and trials > 0 and one + refit <= PRUDENCE * left:
            n = 1  # what the curve asks for is worth a candidate of its own
        elif n < 2:
            rung.closed = "the next bracket does not fit what is left of the budget"
            self.arena.watcher.rung(method.name, base, "finished", rung.closed)
            return
        known = [(t.candidate.config, t.loss) for t in rung.trials if isinstance(t, Finished) and t.loss is not None]
        space = OptunaSpace(derive(context.seed, "space"), known)
        configs = [*nudged, *self._from_earlier(rung, config)][:n]
        more = proposed(method, context, space, generator(context.seed, "propose"), n - len(configs))
        configs += [_with_epochs(each, hint) for each in more]
        configs = _new([settled(method, context, each) for each in configs], rung)
        if not configs:
            rung.closed = "every configuration of its space was tried"
            return
        self._bracket(rung, context, configs, halve=True)

    def _heeded(self, rung: Rung) -> tuple[dict[str, float], list[Any]]:
        """What the best candidate's curve asks for: factors by setting, and that candidate changed by them."""
        assert rung.best is not None
        found = diagnose(rung.best.curve)
        hint = nudge(found)
        if found is None or not hint:
            return {}, []
        changes = ", ".join(f"{name} times {factor:g}" for name, factor in hint.items())
        self.arena.watcher.say(f"{rung.name}: {found.name} ({found.sentence}); next it is tried with {changes}.")
        config: Any = from_plain(rung.method.Config, rung.best.candidate.config, where=rung.method.name)
        rate = config.learning_rate * hint.get("learning_rate", 1.0)
        bounds = rung.method.parameters.get("learning_rate")
        if isinstance(bounds, Real):
            rate = min(max(rate, bounds.low), bounds.high)
        return hint, [_with_epochs(dataclasses.replace(config, learning_rate=rate), hint)]

    def _from_earlier(self, rung: Rung, default: Any) -> list[Any]:
        """What won on this rung in similar tasks and was not tried here."""
        tried = [dict(trial.candidate.config) for trial in rung.trials]
        found = first_to_try(
            self.earlier, rung.method.name, rung.base, list(rung.method.parameters), dict(to_plain(default))
        )
        return [from_plain(rung.method.Config, each, where="warm_start") for each in found if each not in tried]

    def _held_at_once(self, rung: Rung, config: Any, context: Context) -> int:
        """Candidates whose states fit this machine's memory together; as it was when the bracket was first planned."""
        key = f"{rung.name} {rung.brackets}"
        free = self.arena.run.ledger.once("free memory", key, lambda: int(psutil.virtual_memory().available))
        return max(1, int(free // max(1, cost_of(rung.method, context, config).memory_bytes)))


def _with_epochs(config: Any, hint: Mapping[str, float]) -> Any:
    """The config with as many more or fewer passes over train as the hint says, not fewer than one for that reason."""
    factor = hint.get("epochs", 1.0)
    epochs = max(min(1.0, config.epochs), config.epochs * factor)
    return config if factor == 1.0 else dataclasses.replace(config, epochs=epochs)


def _new(configs: Sequence[Any], rung: Rung) -> list[Any]:
    """Each config once, without those that were tried."""
    seen = [dict(trial.candidate.config) for trial in rung.trials]
    found = []
    for config in configs:
        plain = dict(to_plain(config))
        if plain not in seen:
            seen.append(plain)
            found.append(config)
    return found


def in_turn(methods: Sequence[str]) -> list[str]:
    """The order in which defaults are tried: what needs no training first, then what wins most often.

    Where the budget ends early, the rungs that are left out are those that are expected to matter least.
    """
    return sorted(methods, key=lambda name: (get_method(name).trained, -get_method(name).default_share))


def most_asked(room: int, left: float, price: float) -> int:
    """How many candidates of a rung that trains nothing are tried beside its default."""
    affordable = float(room) if price <= 0 else ASKING * left / price - 1
    return max(0, int(min(room, affordable)))


def largest_bracket(room: float, one: float, look: float = 0.0) -> int:
    """Most candidates whose bracket fits this room, where one takes `one` and a look `look`; 0 where not two do."""

    def taken(n: int) -> float:
        return expected_share(n) * one + expected_looks(n) * look

    return max((n for n in range(2, MAX_BRACKET + 1) if taken(n) <= PRUDENCE * room), default=0)


def _reason(trial: Trial) -> str:
    return trial.reason if isinstance(trial, Unfinished) else "finished"


def under_searched(rung: Rung) -> bool:
    """Whether only its default was tried although more might have changed the answer."""
    return rung.best is not None and rung.method.trained and not rung.searched and not rung.beaten
