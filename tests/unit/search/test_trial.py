"""A bracket ends in trials: measured, or with the reason why not; what is in the ledger is not done again."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.errors import EndedEarly, RunError
from tunewise.methods.base import Context, Fold
from tunewise.methods.folded import RefitFailed
from tunewise.predictors.constant import ConstantPredictor
from tunewise.runs import Run
from tunewise.search import trial
from tunewise.search.arena import Arena
from tunewise.search.budget import Clock
from tunewise.search.climb import Climb
from tunewise.search.losses import look_losses
from tunewise.search.stopper import Stopper
from tunewise.search.trial import run_bracket
from tunewise.search.watch import Quiet
from tunewise.types import Curve, Example, Finished, Prediction, Status

LABELS = ("no", "yes")
RACE = tuple(Example(id=str(i), fields={"text": f"t{i}"}, target=LABELS[i % 2]) for i in range(40))

SIXTEEN = (0.5, 0.52, 0.54, 0.56, 0.58, 0.6, 0.62, 0.64, 0.66, 0.68, 0.7, 0.72, 0.3, 0.35, 0.95, 0.4)
"""Skills: a race where the best was drawn late."""


@dataclasses.dataclass(frozen=True)
class FakeConfig:
    skill: float = 0.9
    fails_at: int | None = None
    diverges: bool = False
    refit_fails: bool = False


class FakeBracket:
    """Members whose probability of the right label is their skill, and a trifle more with each step."""

    def __init__(self, configs: Sequence[FakeConfig]) -> None:
        self.configs, self.horizon, self.layout = list(configs), 16, None
        self.reached = [0] * len(configs)
        self.advanced: list[int] = []
        self.notes = ()

    @property
    def size(self) -> int:
        return len(self.configs)

    @property
    def fidelity(self) -> int:
        return min(self.reached)

    def reading_work(self, member: int, tokens: int) -> int:
        return tokens

    def remembers(self, member: int) -> bool:
        return False

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        if any(c.fails_at is not None and fidelity >= c.fails_at for c in self.configs):
            raise RuntimeError("the layer melted")
        behind = [m for m in (range(self.size) if members is None else members) if self.reached[m] < fidelity]
        work = sum(10 * (fidelity - self.reached[m]) for m in behind)
        self.advanced.append(len(behind))
        for member in behind:
            self.reached[member] = fidelity
        return work

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        found: list[list[Prediction]] = []
        for config, reached in zip(self.configs, self.reached, strict=True):
            rng = np.random.default_rng(0)
            found.append([])
            for example in () if config.diverges else [RACE[row] for row in rows or range(len(RACE))]:
                share = float(np.clip(config.skill + 1e-4 * reached + rng.normal(0, 0.2), 0.01, 0.99))
                wrong = LABELS[example.target == "no"]
                scores = {str(example.target): share, wrong: 1 - share}
                found[-1].append(Prediction(text=max(scores, key=scores.__getitem__), scores=scores))
        return found

    def failure(self, member: int) -> str | None:
        return "its loss became infinite at step 3" if self.configs[member].diverges else None

    def keep(self, indices: Sequence[int]) -> None:
        self.configs, self.reached = ([own[i] for i in indices] for own in (self.configs, self.reached))

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"skills": [config.skill for config in self.configs], "reached": self.reached}

    def restore(self, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        self.configs = [FakeConfig(skill=skill) for skill in meta["skills"]]
        self.reached = list(meta["reached"])

    def curve(self, member: int) -> Curve:
        return Curve(dev_steps=(1,), dev_losses=(0.5,))

    def trainable_parameters(self, member: int) -> int:
        return 7

    def predictor(self, member: int) -> ConstantPredictor:
        if self.configs[member].refit_fails:
            raise RefitFailed("fitted on all rows, after its folds: it diverged")
        return ConstantPredictor(labels=LABELS, shares=(0.5, 0.5))

    def close(self) -> None: ...


class FakeMethod:
    name = "fake"
    trained = True

    def __init__(self) -> None:
        self.opened: list[FakeBracket] = []

    def open(self, context: Context, configs: Sequence[FakeConfig]) -> FakeBracket:
        self.opened.append(FakeBracket(configs))
        return self.opened[-1]


@pytest.fixture
def arena(tmp_path: Path):
    task = Task(data=DataConfig(train="x.csv"), metric="accuracy", budget=Budget(work=1))
    with Run.create(tmp_path / "run") as run:
        yield Arena(run, task, Stopper(Clock(), float("inf")), Quiet(), [str(e.target) for e in RACE])


@pytest.fixture
def context(arena: Arena, tiny) -> Context:
    return Context(
        task=arena.task,
        labels=LABELS,
        base=tiny,
        folds=(Fold(train=RACE, race=RACE),),
        features=lambda examples: np.zeros((len(examples), 1)),
        work=1,
        seed=1,
    )


def test_a_crash_is_a_failed_trial_with_its_reason(arena: Arena, context: Context) -> None:
    trials = run_bracket(arena, FakeMethod(), context, [FakeConfig(fails_at=1)], name="b", halve=False)
    assert [trial.status for trial in trials] == [Status.FAILED]
    assert trials[0].reason == "RuntimeError: the layer melted"


def test_what_is_in_the_ledger_is_not_done_again(arena: Arena, context: Context) -> None:
    method = FakeMethod()
    configs = [FakeConfig(), FakeConfig(skill=0.6)]
    first = run_bracket(arena, method, context, configs, name="b", halve=False)
    again = run_bracket(arena, method, context, configs, name="b", halve=False)
    assert first == again
    assert len(method.opened) == 1


def test_the_best_member_is_kept_and_its_work_is_counted(arena: Arena, context: Context) -> None:
    configs = [FakeConfig(skill=0.4), FakeConfig(skill=0.95), FakeConfig(skill=0.6)]
    trials = run_bracket(arena, FakeMethod(), context, configs, name="b", halve=False)
    assert [isinstance(t, Finished) and t.folder for t in trials] == [None, "trials/b", None]
    assert [t.work for t in trials] == [160, 160, 160]
    assert (arena.run.folder / "trials" / "b" / "predictor" / "constant.json").is_file()


class TextBracket(FakeBracket):
    """The first member has no room for half of the rows, the hard ones; the second foresees each row better."""

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        def said(loss: float | None) -> Prediction:
            known = {} if loss is None else {"target_log_probability": -loss, "target_tokens": 1}
            return Prediction(text="yes", **known)

        n = len(rows or RACE) // 2
        return [[said(0.5)] * n + [said(None)] * n, [said(0.1)] * n + [said(3.0)] * n][: self.size]


def test_texts_decide_between_equals_by_the_rows_that_both_can_read(
    arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMethod, "open", lambda self, context, configs: TextBracket(configs))
    task = dataclasses.replace(arena.task, kind="generate", metric="exact_match")
    arena.task, context = task, dataclasses.replace(context, task=task)
    trials = run_bracket(arena, FakeMethod(), context, [FakeConfig(), FakeConfig()], name="b", halve=False)
    assert [isinstance(t, Finished) and t.folder for t in trials] == [None, "trials/b"]
    assert [t.loss for t in trials if isinstance(t, Finished)] == pytest.approx([0.5, 1.55])


def test_winners_of_two_brackets_are_compared_by_the_rows_that_both_can_read(
    arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(arena.task, kind="generate", metric="exact_match")
    arena.task, context = task, dataclasses.replace(context, task=task)
    answers, found = TextBracket([FakeConfig()] * 2).predictions(), []
    for member in (0, 1):
        bracket = TextBracket([FakeConfig()])
        monkeypatch.setattr(bracket, "predictions", lambda rows=None, at=member: answers[at : at + 1])
        monkeypatch.setattr(FakeMethod, "open", lambda self, context, configs, own=bracket: own)
        found += run_bracket(arena, FakeMethod(), context, [FakeConfig()], name=f"b{member}", halve=False)
    assert [trial.loss for trial in found] == pytest.approx([0.5, 1.55])
    climb = Climb(arena, None, None, ["b"], ["lora"])  # type: ignore[arg-type]
    assert climb._ranked(found[0], found[1], context) == (found[1], found[0])
    assert climb._ranked(found[1], found[0], context) == (found[1], found[0])


def test_losers_leave_the_race_where_the_order_holds(arena: Arena, context: Context) -> None:
    method = FakeMethod()
    configs = [FakeConfig(skill=s) for s in (0.5, 0.95, 0.55, 0.9, 0.6, 0.65)]
    trials = run_bracket(arena, method, context, configs, name="b", halve=True)
    done = [t.status is Status.FINISHED for t in trials]
    assert done == [False, True, False, False, False, False]
    assert "left the race at 25% of its horizon: the order held" in trials[0].reason
    assert trials[0].curve.dev_losses == (0.5,)
    assert trials[0].work < trials[1].work


def test_a_few_go_ahead_and_the_rest_follow_only_where_they_promise_something(arena: Arena, context: Context) -> None:
    method = FakeMethod()
    trials = run_bracket(arena, method, context, [FakeConfig(skill=s) for s in SIXTEEN], name="b", halve=True)
    # everyone to step 2, twelve of them to 4; of the rest the best one follows; the four best go on to 8, two to 12
    assert method.opened[0].advanced[:7] == [16, 16, 12, 12, 1, 1, 4]
    assert [place for place, trial in enumerate(trials) if trial.status is Status.FINISHED] == [14]
    behind = trials[12]
    assert "left the race at 12% of its horizon: the order held among those that went ahead" in str(behind.reason)
    assert behind.work == 20
    assert trials[0].work == 40
    assert sum(trial.work for trial in trials) == 10 * (16 * 2 + 13 * 2 + 4 * 4 + 2 * 4 + 4)


def test_a_race_that_is_interrupted_at_every_slice_ends_as_an_undisturbed_one(
    tmp_path: Path, arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = dataclasses.replace(context, race_tokens=40)
    configs = [FakeConfig(skill=skill) for skill in SIXTEEN]
    whole = run_bracket(arena, FakeMethod(), context, configs, name="b", halve=True)
    with Run.create(tmp_path / "again") as run:
        sittings, trials = 0, None
        while trials is None:
            sittings += 1
            checks = iter([False, True])  # one slice a sitting
            again = dataclasses.replace(arena, run=run, stopper=Stopper(Clock(), float("inf")))
            monkeypatch.setattr(Stopper, "check", lambda self, left=checks: _stop_at(next(left, True)))
            with contextlib.suppress(EndedEarly):
                trials = run_bracket(again, FakeMethod(), context, configs, name="b", halve=True)
    assert sittings > 8
    assert [(t.status, t.work) for t in trials] == [(t.status, t.work) for t in whole]
    assert [getattr(t, "reason", None) for t in trials] == [getattr(t, "reason", None) for t in whole]


def _stop_at(now: bool) -> None:
    if now:
        raise EndedEarly("interrupted")


def test_where_every_member_diverges_all_fail_with_their_own_reason(arena: Arena, context: Context) -> None:
    configs = [FakeConfig(diverges=True, skill=0.5 + i / 100) for i in range(5)]
    trials = run_bracket(arena, FakeMethod(), context, configs, name="b", halve=True)
    assert {trial.status for trial in trials} == {Status.FAILED}
    assert {getattr(trial, "reason", None) for trial in trials} == {"its loss became infinite at step 3"}


def test_looks_are_charged_to_whose_answers_were_read(arena: Arena, context: Context) -> None:
    context = dataclasses.replace(context, race_tokens=40)
    trials = run_bracket(arena, FakeMethod(), context, [FakeConfig(skill=s) for s in SIXTEEN], name="b", halve=True)
    assert trials[12].work == 20 + 40, "to the first mark, and one look"
    assert trials[0].work == 40 + 2 * 40, "to the second, and two"


def test_rows_that_were_not_watched_are_charged_to_what_finishes(
    arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = dataclasses.replace(context, race_tokens=40)
    (known,) = run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="known", halve=False)
    monkeypatch.setattr("tunewise.training.rows.LEAST_WATCHED", len(RACE) - 1)
    (unknown,) = run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="unknown", halve=False)
    assert (known.work, unknown.work) == (160, 160 + 40)


def test_a_member_that_diverged_fails_and_the_others_go_on(arena: Arena, context: Context) -> None:
    configs = [FakeConfig(diverges=True), FakeConfig(skill=0.9)]
    trials = run_bracket(arena, FakeMethod(), context, configs, name="b", halve=False)
    assert trials[0].status is Status.FAILED
    assert trials[0].reason == "its loss became infinite at step 3"
    assert isinstance(trials[1], Finished)


def test_where_the_best_cannot_be_fitted_on_all_rows_the_next_is_served(arena: Arena, context: Context) -> None:
    configs = [FakeConfig(skill=0.6), FakeConfig(skill=0.95, refit_fails=True), FakeConfig(skill=0.7)]
    trials = run_bracket(arena, FakeMethod(), context, configs, name="b", halve=False)
    assert [trial.status for trial in trials] == [Status.FINISHED, Status.FAILED, Status.FINISHED]
    assert trials[1].reason == "fitted on all rows, after its folds: it diverged"
    assert [getattr(trial, "folder", None) for trial in trials] == [None, None, "trials/b"]


def test_the_clock_cuts_a_bracket_off_and_ends_the_search(arena: Arena, context: Context) -> None:
    arena.stopper = Stopper(Clock(before=100.0), 50.0)
    trials = run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="b", halve=False)
    assert trials[0].status is Status.OUT_OF_BUDGET
    assert trials[0].work > 0
    assert "cut off by the clock" in trials[0].reason
    assert arena.clock_stopped
    arena.clock_stopped = False
    assert run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="b", halve=False) == trials
    assert arena.clock_stopped, "played back, the stop is known again"


def test_an_interruption_is_no_result(arena: Arena, context: Context) -> None:
    arena.stopper.interrupted = True
    with pytest.raises(EndedEarly, match="interrupted"):
        run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="b", halve=False)
    assert arena.run.ledger.recall("bracket", "b") is None


def test_a_full_disk_ends_the_run_and_fails_no_candidate(
    arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("checkpoint: cannot be written (No space left on device). Free disk space and resume.")

    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(trial, "save_checkpoint", full)
    with pytest.raises(RunError, match="No space left on device"):
        run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="b", halve=False)
    assert arena.run.ledger.recall("bracket", "b") is None


def test_checkpoints_stop_at_the_disk_cap_and_the_run_goes_on(
    arena: Arena, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(arena.watcher, "say", said.append)
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", -1.0)
    arena.task = dataclasses.replace(arena.task, disk_gb=1e-9)
    trials = run_bracket(arena, FakeMethod(), context, [FakeConfig()], name="b", halve=False)
    assert isinstance(trials[0], Finished)
    assert said
    assert "`disk_gb` allows" in said[0]


def test_a_dev_row_that_one_member_cannot_read_says_nothing_about_any():
    loss_PE = np.array([[1.0, 3.0, np.nan], [1.0, 2.0, 9.0], [np.nan] * 3])
    context = SimpleNamespace(task=SimpleNamespace(kind="generate"))
    bracket = SimpleNamespace(losses=lambda rows: loss_PE)
    found_PE = look_losses(bracket, context, (0, 1, 2))
    assert found_PE.tolist() == [[1.0, 3.0, 0.0], [1.0, 2.0, 0.0], [np.inf] * 3]
