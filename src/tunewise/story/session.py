"""Before the climb: the bases, the rows and their folds, the machine's speed, and the work the budget stands for."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tunewise.config import Task, from_plain
from tunewise.data.audit import Finding, audit
from tunewise.data.load import Data
from tunewise.data.references import apart, together
from tunewise.data.split import k_folds, race_and_choose, strata_of
from tunewise.errors import PromptError, RunError
from tunewise.evaluation.evaluate import wanted
from tunewise.evaluation.kinds import check_kind, check_ranks
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.own import load_own
from tunewise.evaluation.ordinal import check_order
from tunewise.evaluation.several import threshold_note
from tunewise.methods import get_method, in_order
from tunewise.methods.asking import PromptConfig, check_prompt, label_notes, rendering_note, unused_prompt
from tunewise.methods.base import Context, Fold, default_of, skip_reason
from tunewise.methods.writing import as_read, prompt_for
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder, answering
from tunewise.models.load import load_base
from tunewise.models.precision import bf16_is_fast
from tunewise.prompts.sourced import named_template
from tunewise.prompts.template import Template
from tunewise.runs import Run, write_atomic
from tunewise.search.arena import Arena
from tunewise.search.budget import Clock, Purse, work_of
from tunewise.search.calibrate import Speed, forward_speed, rehearse, waiting_threads
from tunewise.search.climb import in_turn
from tunewise.search.finalists import clusters_of
from tunewise.search.plan import looks_up_vectors, make_plan
from tunewise.search.prior import check_folder
from tunewise.search.stopper import Stopper
from tunewise.search.watch import PlanRow, Watcher
from tunewise.seeding import derive
from tunewise.types import Example, to_plain

REHEARSAL_SHARE = 0.08
"""Of the minutes, after which rungs that were not timed yet are taken to be as slow as the slowest that was."""
FINISH_SECONDS = 5.0
FINISH_SECONDS_PER_RUNG = 1.0
"""To load a winner, to time it text by text, and for its part of the report."""
ADAPTED = 1.5
"""How much slower than the base an adapted one reads."""
FEW_ROWS = 400
"""Dev rows below which candidates are cross-fitted."""
FOLDS = 3
PASSES = (30, 100)
"""Forward passes over all rows, per fold, that the search must be able to pay for cross-fitting to be worth it: as many
as dev would have rows, within these bounds. By a handful of rows nothing can be chosen, however much was tried."""


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
    read: dict[tuple[str, PromptConfig], Context] = field(default_factory=dict)
    """By base and prompt, a context with the tokens that there are where rows are prompts with their answers."""
    openings: int | None = None
    """Of this held_out by runs of this user, once it was opened."""

    def context(self, base: str, method: str, bracket: int) -> Context:
        """What a method may see; each bracket has its own seed, the same wherever the base lies."""
        speed = self.speeds.get(f"{method} {base}") or self.speeds[f"forward {base}"]
        context = Context(
            task=dataclasses.replace(self.task, truncation=answering(self.task.truncation), dtype=self._dtype(base)),
            labels=self.data.labels,
            base=self.bases[base],
            folds=self.folds,
            features=self.stores[base],
            work=self.purse.granted(method, base),
            seed=derive(self.task.seed, self.bases[base].info.sha256, method, bracket),
            train_tokens=self.tokens[base]["train"],
            race_tokens=self.tokens[base]["race"],
            seconds_per_work=speed.seconds_per_work,
            several=self.data.several,
        )
        said = prompt_for(method, self.task)
        if (base, said) not in self.read:
            self.read[base, said] = as_read(context, said)
        read = self.read[base, said]
        return dataclasses.replace(
            context,
            train_tokens=read.train_tokens,
            race_tokens=read.race_tokens,
            answering_tokens=read.answering_tokens,
        )

    def _dtype(self, base: str) -> Any:
        """What trained rungs work in, as it was when this run began, whatever machine goes on with it."""
        if self.task.dtype != "auto":
            return self.task.dtype
        device = self.bases[base].device.type
        fast = self.run.ledger.once("bf16", device, lambda: bf16_is_fast(device))
        return "bfloat16" if fast else "float32"

    @property
    def race(self) -> tuple[Example, ...]:
        """The rows that candidates race on."""
        return tuple(example for fold in self.folds for example in fold.race)

    @property
    def methods(self) -> tuple[str, ...]:
        """The rungs to climb, in the ladder's order."""
        return in_order(self.task.methods)


def check_names(task: Task) -> None:
    """Raise ConfigError for a metric or method that does not exist or does not fit, before anything is read."""
    metric = METRICS.get(task.metric)
    check_kind(metric, task.kind)
    check_ranks(metric, task.kind)
    load_own(metric)
    check_order(metric, ordered=task.ordinal)
    for name in task.methods or ():
        get_method(name)
    if task.warm_start is not None:
        check_folder(Path(task.warm_start))
    if task.prompt.file is not None:
        named_template(Path(task.prompt.file), task.prompt.name)
    if task.prompt.template is not None:
        Template(task.prompt.template, name="prompt")
    for name, own in task.settings.items():
        from_plain(get_method(name).Config, own, where=f"settings.{name}")


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
    _same_as_before(run, "metric", METRICS.get(task.metric).signature, "the metric")
    write_atomic(run.folder / "task.yaml", task_text(task))
    said = check_prompt(task, data.labels, data.train, several=data.several)
    if said is not None:
        _same_as_before(run, "prompt", said.digest, "the prompt")
        if said.source is not None and said.words:
            watcher.say(
                f"prompt: {said.source.name} says {', '.join(f'{w!r} for {k}' for k, w in said.words.items())}."
            )
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
        _same_as_before(run, f"tokenizer {name}", base.info.tokenizer_sha256, f"the tokenizer of {name}")
    if (unused := unused_prompt(task, bases.values(), several=data.several)) is not None:
        watcher.say(unused)
    for base in bases.values():
        if (rendering := rendering_note(task, base)) is not None:
            watcher.say(rendering)
        with contextlib.suppress(PromptError):  # the rungs say it
            for note in label_notes(task, data.labels, data.train, base):
                watcher.say(note)
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
    race, choose = race_and_choose(data.dev, minimum=FEW_ROWS, strata=strata_of(data.kind))
    return Fold(train=data.train, race=race), choose


def _cross_fit(session: Session) -> None:
    """Where dev was split off and has few rows: fit on folds of train and dev, if the budget can bear it."""
    data, k = session.data, FOLDS
    if len(data.dev) >= FEW_ROWS:
        return
    parts = k_folds((*data.train, *data.dev), k, seed=session.task.seed, strata=strata_of(data.kind))
    first = session.tokens[session.task.models[0]]
    passes = min(max(len(data.dev), PASSES[0]), PASSES[1])
    needed = passes * len(parts) * (first["train"] + first["race"])
    if data.kind == "generate":
        # each right answer is learnt from, and each input is measured once
        folds = tuple(
            Fold(train=apart([e for other in parts if other is not part for e in other]), race=together(part))
            for part in parts
        )
    else:
        folds = tuple(
            Fold(train=tuple(e for other in parts if other is not part for e in other), race=part) for part in parts
        )
    possible = not data.own_dev and len(parts) > 1 and _all_can_learn(folds)
    if not session.run.ledger.once("cross-fit", "", lambda: possible and session.purse.left >= needed):
        session.watcher.say(
            f"dev has {len(data.dev)} rows, too few to split again: the same rows race candidates and choose the "
            "rung, so its scores flatter the winner a little; held_out does not."
            + (" With a larger budget, candidates would be cross-fitted instead." if possible else "")
        )
        return
    session.folds, session.read = folds, {}
    session.choose = session.race
    session.tokens = {
        name: _count_tokens(base, data, session.folds, session.task) for name, base in session.bases.items()
    }
    _pay_vectors(session)
    session.watcher.say(
        f"dev would have {len(data.dev)} rows, too few to choose by: candidates are fitted on {len(parts)} folds of "
        f"the {len(session.race):,} rows and scored on those they were not fitted on; what is chosen is fitted on all. "
        "The same answers race candidates and choose the rung, so they flatter the winner a little; held_out does not."
    )


def _all_can_learn(folds: Sequence[Fold]) -> bool:
    """Whether no fold is left with rows of one kind only, from which nothing can be learnt."""
    return all(len({example.target for example in fold.train}) > 1 for fold in folds)


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
    findings = audit(
        data,
        length_of=first.token_counts,
        max_tokens=first.info.max_tokens,
        answers_too=first.info.family == "causal",
    )
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

    def speed(name: str, make: Callable[[], Speed]) -> Speed:
        session.speeds[name] = Speed(**ledger.once("speed", name, lambda: to_plain(make())))
        return session.speeds[name]

    methods = [get_method(name) for name in in_turn(session.methods)]
    for base, encoder in session.bases.items():
        policy = answering(task.truncation)
        forward = speed(f"forward {base}", partial(forward_speed, encoder, session.data.train, policy))
        if task.budget.minutes is not None and (said := waiting_threads(encoder, session.data.train, policy)):
            session.watcher.say(said)
        slowest, features = forward, FeatureStore(encoder, task.truncation, (), None)
        for method in methods:
            context = session.context(base, method.name, 0)
            if method.trained and skip_reason(method, context) is None:
                late = session.clock.seconds > REHEARSAL_SHARE * 60 * (task.budget.minutes or float("inf"))
                timed = partial(rehearse, method, context, features, forward, session.watcher.say)
                seen = speed(f"{method.name} {base}", partial(dataclasses.replace, slowest) if late else timed)
                slowest = max(slowest, seen, key=lambda s: s.seconds_per_work)
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
            "work": work_of(
                task.budget,
                seconds_spent=session.clock.seconds,
                finish_seconds=finish_seconds(session),
                seconds_per_work=reference,
            ),
            "rates": rates,
        },
    )
    session.purse = Purse(total=raw["work"], trials=task.budget.trials, rates=raw["rates"])
    _pay_vectors(session)


def _pay_vectors(session: Session) -> None:
    """For the rows whose vectors rungs read, as far as they are not paid for yet."""
    for base, counted in session.tokens.items():
        if looks_up_vectors(session.methods, base, session.context):
            unpaid = counted["train"] + counted["race"] - session.purse.work_paid("forward", base)
            session.purse.pay("forward", base, unpaid, candidates=0)


def plan_rows(session: Session) -> list[PlanRow]:
    """What will be tried, in order, with expected time and memory."""
    return make_plan(session.methods, list(session.bases), session.context, session.speeds, session.purse)


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


def arena_of(session: Session, stopper: Stopper) -> Arena:
    return Arena(session.run, session.task, stopper, session.watcher, wanted(session.race), clusters_of(session.race))


def threshold_notes(session: Session) -> list[str]:
    """How it is decided which of several labels a text is given; nothing where it has one."""
    tuned = METRICS.get(session.task.metric).several
    if not session.data.several or tuned is None:
        return []
    wanted_EL = session.context(session.task.models[0], session.methods[0], 0).wanted(session.race)
    return [threshold_note(wanted_EL, session.data.labels, tuned)]


def finish_seconds(session: Session) -> float:
    """What everything after the search is expected to take: each winner reads the rows to choose on and held_out.

    Where held_out is a file it is not opened to be counted: its size tells about how many rows it has, or it is taken
    to have half as many as train and dev.
    """
    # of folds, what is chosen by was answered while they raced
    to_choose_by = len(session.choose) if len(session.folds) == 1 else 0
    to_read = to_choose_by + session.data.expected_held_out
    total = FINISH_SECONDS + FINISH_SECONDS_PER_RUNG * len(session.methods) * len(session.bases)
    unread = [0.0]
    for base, counted in session.tokens.items():
        if not looks_up_vectors(session.methods, base, session.context):
            seconds_per_token = session.speeds[f"forward {base}"].seconds_per_work
            unread.append((counted["train"] + counted["race"]) * seconds_per_token)
        per_row = (counted["train"] + counted["race"]) / max(
            1, len(session.folds[0].train) + len(session.folds[0].race)
        )
        reading = ADAPTED * to_read * per_row * session.speeds[f"forward {base}"].seconds_per_work
        for name in session.methods:
            method = get_method(name)
            context = session.context(base, name, 0)
            if skip_reason(method, context) is not None:
                continue
            if method.trained and context.answering_tokens:
                answered = context.answering_tokens / max(1, len(context.fold.race))
                total += ADAPTED * to_read * answered * session.speeds[f"forward {base}"].seconds_per_work
            elif method.trained:
                total += reading
            elif getattr(method, "asks", False):
                asked = method.cost(context, default_of(method, context)).work / max(1, len(context.fold.race))
                total += to_read * asked * session.speeds[f"forward {base}"].seconds_per_work
    return total + max(unread)
