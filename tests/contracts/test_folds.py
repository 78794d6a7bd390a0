"""Cross-fitting, for every rung: a row is answered by what was not fitted on it; what is served saw every row."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewise.data.split import k_folds
from tunewise.methods import LADDER, get_method
from tunewise.methods.base import Context, Fold, Method
from tunewise.methods.folded import FoldedBracket, RefitFailed, cost_of, open_bracket, refit_work
from tunewise.methods.trained_config import TrainedConfig
from tunewise.predictors.bundle import load_predictor

Contexts = Callable[[str], Context]
RUNGS = [name for name in LADDER if "masked" in get_method(name).families]


@pytest.fixture
def folded(context_for: Contexts) -> Context:
    context = context_for("bert")
    parts = k_folds((*context.fold.train, *context.fold.race), 3, seed=1)
    folds = tuple(
        Fold(train=tuple(e for other in parts if other is not part for e in other), race=part) for part in parts
    )
    return dataclasses.replace(context, folds=folds)


def config_of(method: Method, context: Context, **changes: Any) -> Any:
    config = method.default(context)
    if isinstance(config, TrainedConfig):
        config = dataclasses.replace(config, epochs=1.0, batch_size=8, **changes)
    return config


@pytest.mark.parametrize("rung", RUNGS)
def test_each_part_of_a_members_losses_is_a_bracket_on_that_fold_alone(rung: str, folded: Context) -> None:
    method = get_method(rung)
    bracket = open_bracket(method, folded, [config_of(method, folded)])
    assert isinstance(bracket, FoldedBracket)
    bracket.advance(bracket.horizon)
    alone = []
    for fold in folded.folds:
        one = method.open(dataclasses.replace(folded, folds=(fold,)), [config_of(method, folded)])
        one.advance(one.horizon)
        alone.append(one.losses())
    assert bracket.losses().shape == (1, len(folded.race))
    np.testing.assert_allclose(bracket.losses(), np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rung", RUNGS)
def test_what_is_served_is_fitted_on_all_rows_and_loads(rung: str, folded: Context, tmp_path: Path) -> None:
    method = get_method(rung)
    nearest = {"neighbours": 1} if rung == "retrieval" else {}
    bracket = open_bracket(method, folded, [dataclasses.replace(config_of(method, folded), **nearest)])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    bracket.close()
    predictor.save(tmp_path)
    answers = predictor.predict(folded.race)
    loaded = load_predictor(tmp_path, lambda name: folded.base).predict(folded.race)
    assert [a.text for a in loaded] == [a.text for a in answers]
    if nearest:  # every row finds itself, so all of them are in the index
        assert [a.text for a in answers] == [e.target for e in folded.race]


@pytest.mark.parametrize("rung", ["lora", "full"])
def test_a_folded_bracket_continues_bit_for_bit(rung: str, folded: Context) -> None:
    method = get_method(rung)
    configs = [config_of(method, folded), config_of(method, folded, learning_rate=3e-3)]
    first = open_bracket(method, folded, configs)
    context = dataclasses.replace(folded, layout=first.layout)
    first.advance(2)
    tensors, meta = first.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    first.keep([1])
    first.advance(first.horizon)
    second = open_bracket(method, context, configs)
    second.restore(tensors, meta)
    second.keep([1])
    second.advance(second.horizon)
    np.testing.assert_array_equal(first.losses(), second.losses())


@pytest.mark.parametrize("rung", ["lora", "full", "linear_probe"])
def test_the_cost_of_folds_is_stated(rung: str, folded: Context) -> None:
    method = get_method(rung)
    config = config_of(method, folded)
    one = method.cost(folded, config)
    assert cost_of(method, folded, config).work == 3 * one.work
    assert refit_work(method, folded, config) == pytest.approx(1.5 * one.work, abs=1)


def test_a_fold_that_diverges_is_the_members_failure(folded: Context) -> None:
    method = get_method("full")
    bracket = open_bracket(method, folded, [config_of(method, folded)])
    assert isinstance(bracket, FoldedBracket)
    bracket.advance(bracket.horizon)
    bracket.brackets[1].loops[0].members[0].diverge("diverged: loss nan")
    assert bracket.failure(0) == "fold 2: diverged: loss nan"
    assert bracket.predictions() == [[]]


def test_a_refit_goes_as_far_as_the_members_own_folds_did(folded: Context) -> None:
    # a rival with smaller batches makes the bracket's horizon longer than this member's own
    method = get_method("lora")
    config = config_of(method, folded)
    rival = dataclasses.replace(config, batch_size=4)
    alone, among = open_bracket(method, folded, [config]), open_bracket(method, folded, [config, rival])
    for bracket in (alone, among):
        bracket.advance(bracket.horizon)
    expected, found = (bracket.predictor(0).predict(folded.race) for bracket in (alone, among))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(list((one.scores or {}).values()), list((other.scores or {}).values()), atol=1e-4)


@pytest.mark.parametrize("rung", ["full", "contrastive"])
def test_a_refit_that_comes_to_nothing_says_so(rung: str, folded: Context) -> None:
    method = get_method(rung)
    # so long a step that only the last one, of the refit alone, leads out of all numbers
    bracket = open_bracket(method, folded, [config_of(method, folded)])
    assert isinstance(bracket, FoldedBracket)
    bracket.advance(bracket.horizon)
    bracket._configs = [config_of(method, folded, learning_rate=1.0, optimizer="sgd", warmup_share=0.0)]
    for config in bracket._configs:
        object.__setattr__(config, "learning_rate", 1e30)
    with pytest.raises(RefitFailed, match=r"fitted on all rows, after its folds: .*diverged"):
        bracket.predictor(0)
