"""Which rows are shown, how many and in which order: each is searched, alone and together."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold, default_of, proposed
from tunewise.methods.few_shot import FewShot, FewShotConfig
from tunewise.models.causal import Causal
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.search.space import FixedGrid, OptunaSpace
from tunewise.types import Example


@pytest.fixture(scope="module")
def context_of(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[..., Context]:
    base = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(base, Causal)
    rows = [Example(id=str(i), fields={"text": f"ok {i}"}, target=("no", "yes")[i % 2]) for i in range(40)]

    def context(**changes) -> Context:
        task = Task(data=DataConfig(train="x.csv"), budget=Budget(work=1), truncation="keep_start", **changes)
        return Context(
            task=task,
            labels=() if task.kind == "generate" else ("no", "yes"),
            base=base,
            folds=(Fold(train=tuple(rows[:32]), race=tuple(rows[32:])),),
            features=FeatureStore(base, "keep_start", rows, None),
            work=1,
            seed=3,
            train_tokens=32 * 4,
        )

    return context


def shown(context: Context, config: FewShotConfig) -> list[str]:
    bracket = FewShot().open(context, [config])
    bracket.advance(1)
    return [each.fields["text"] for each in bracket.predictor(0).prompt.demonstrations]  # type: ignore[attr-defined]


def test_another_order_shows_the_same_rows_and_another_draw_others(context_of) -> None:
    context = context_of()
    first, order, draw = (shown(context, FewShotConfig(shots=6, **c)) for c in ({}, {"order": 1}, {"draw": 1}))
    assert sorted(first) == sorted(order)
    assert first != order
    assert sorted(first) != sorted(draw)
    assert order == shown(context, FewShotConfig(shots=6, order=1))


@pytest.mark.parametrize("kind", ["classify", "generate"])
def test_count_rows_and_order_are_searched_as_far_as_candidates_go(context_of, kind) -> None:
    context, method = context_of(kind=kind), get_method("few_shot")
    default, rng = default_of(method, context), np.random.default_rng(0)
    few = proposed(method, context, OptunaSpace(3, []), rng, 6)
    for name in ("shots", "draw", "order"):
        assert any(getattr(config, name) != getattr(default, name) for config in few)
    many = proposed(method, context, OptunaSpace(3, []), rng, 16)
    assert len(many) == 16 > len(proposed(method, context, FixedGrid(), rng, 16))
    assert many[: len(few)] == few
    assert len({(config.shots, config.draw, config.order) for config in many}) > 8
    assert (len({config.calibration for config in many}) > 1) == (kind == "classify")


def test_what_the_settings_make_impossible_leaves_its_place_to_another(context_of) -> None:
    context, method, rng = context_of(), get_method("few_shot"), np.random.default_rng(0)
    task = dataclasses.replace(context.task, settings={"few_shot": {"answer": "constrained"}})
    context = dataclasses.replace(context, task=task)
    found = [proposed(method, context, OptunaSpace(3, []), rng, n) for n in range(9)]
    assert [len(configs) for configs in found] == list(range(9))
    assert all(configs == found[-1][: len(configs)] for configs in found)
    assert {config.answer for config in found[-1]} == {"constrained"}


def test_where_no_prompt_has_room_for_a_shown_row_it_is_said(context_of) -> None:
    context = context_of()
    long = tuple(Example(id=f"l{i}", fields={"text": "ok " * 300}, target=("no", "yes")[i % 2]) for i in range(8))
    for race, said in ((context.fold.race, 0), (long, 1), ((*long, context.fold.race[0]), 0)):
        there = dataclasses.replace(context, folds=(Fold(train=context.fold.train, race=race),))
        bracket = FewShot().open(there, [FewShotConfig(shots=2)])
        assert sum("no prompt had room for a row that is shown" in each for each in bracket.said) == said


@pytest.mark.parametrize("rung", ["zero_shot", "few_shot", "retrieval"])
def test_where_the_task_wants_labels_written_what_is_about_scores_is_not_tried(context_of, rung) -> None:
    context, method = context_of(settings={rung: {"answer": "written"}}), get_method(rung)
    found = proposed(method, context, OptunaSpace(3, []), np.random.default_rng(0), 8)
    assert {config.answer for config in [default_of(method, context), *found]} == {"written"}
    assert {(config.length, config.calibration) for config in found} <= {("sum", "none")}
    assert bool(found) == (rung != "zero_shot")
