"""Refits of the finalists: counted, paired, named where they do not fit, and never confused with the first fit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder
from tunewise.runs import Run
from tunewise.search.arena import Arena
from tunewise.search.budget import Clock, Purse
from tunewise.search.climb import Rung
from tunewise.search.stopper import Stopper
from tunewise.search.study import Study, part_of
from tunewise.search.trial import run_bracket
from tunewise.search.watch import Quiet
from tunewise.types import Example, Finished

WORDS = {"pay": ["card", "refund", "payment"], "login": ["password", "account", "reset"]}


def rows(n: int, seed: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        label = sorted(WORDS)[i % 2]
        words = [*rng.choice(WORDS[label], size=2), *rng.choice(["the", "my", "is", "never"], size=3)]
        made.append(Example(id=f"{seed}-{i}", fields={"text": f"{' '.join(words)} {seed}{i}"}, target=label))
    return tuple(made)


@pytest.fixture
def context(tiny: Encoder) -> Context:
    train, race = rows(40, 0), rows(24, 1)
    return Context(
        task=Task(data=DataConfig(train="x.csv"), budget=Budget(work=10**9), truncation="keep_start", dtype="float32"),
        labels=("login", "pay"),
        base=tiny,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(tiny, "keep_start", (*train, *race), None),
        work=10**9,
        seed=5,
        train_tokens=400,
        race_tokens=200,
    )


@pytest.fixture
def study_of(tmp_path: Path, context: Context) -> Callable[..., tuple[Study, Rung]]:
    def build(method: str, total: int | None = None) -> tuple[Study, Rung]:
        run = Run.create(tmp_path / f"run-{method}-{total}")
        targets = [str(e.target) for e in context.race]
        task = dataclasses.replace(context.task, models=(context.base.info.name,))
        arena = Arena(run, task, Stopper(Clock(), float("inf")), Quiet(), targets)
        rung = Rung(method=get_method(method), base=context.base.info.name)
        config = rung.method.default(context)
        if rung.method.trained:
            config = dataclasses.replace(config, epochs=1.0)
        (trial,) = run_bracket(arena, rung.method, context, [config], name=f"{method}-0-0", halve=False)
        assert isinstance(trial, Finished)
        rung.trials, rung.best = [trial], trial
        return Study(arena, Purse(total=total, trials=None, rates={}), lambda *_: context), rung

    return build


def test_a_trained_rung_is_refitted_with_other_seeds_and_less_data(study_of: Callable[..., tuple[Study, Rung]]) -> None:
    study, rung = study_of("lora")
    (studied,) = study.run([rung])
    assert [(p.share, p.seed) for p in studied.points] == [(1.0, 0), (1.0, 1), (0.5, 0), (1.0, 2), (0.25, 0)]
    assert rung.best is not None
    assert studied.points[0].score == rung.best.score
    scores = [p.score for p in studied.points if p.share == 1.0 and p.seed > 0]
    assert studied.seed_sd == pytest.approx(np.std(scores, ddof=1))
    assert studied.more_data is not None
    assert "from half of train to all of it" in studied.more_data
    assert not list((study.arena.run.folder / "trials").glob("study-*/predictor")), "refits leave no weights behind"
    assert (study.arena.run.folder / str(rung.best.folder) / "predictor").is_dir(), "the winner's stay"


def test_what_is_not_random_is_not_refitted_by_seed(study_of: Callable[..., tuple[Study, Rung]]) -> None:
    study, rung = study_of("linear_probe")
    (studied,) = study.run([rung])
    assert [(p.share, p.seed) for p in studied.points] == [(1.0, 0), (0.5, 0), (0.25, 0)]
    assert studied.seed_sd is None


def test_refits_that_do_not_fit_the_budget_are_named(study_of: Callable[..., tuple[Study, Rung]]) -> None:
    study, rung = study_of("lora", total=10)
    (studied,) = study.run([rung])
    assert len(studied.points) == 1
    assert studied.more_data is None
    assert [sentence.split(":")[0] for sentence in studied.skipped] == [
        "seed 1",
        "50% of train",
        "seed 2",
        "25% of train",
    ]


def test_a_share_of_train_leaves_race_alone(context: Context) -> None:
    half = part_of(context, 0.5)
    assert len(half.fold.train) == 20
    assert half.race == context.race
    assert half.train_tokens == 200
