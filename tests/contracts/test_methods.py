"""What every rung keeps, on every architecture it works on. Joining the ladder is what gets you tested."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewise.config import from_plain
from tunewise.methods import LADDER, get_method
from tunewise.methods.base import Bracket, Context, Method
from tunewise.methods.linear_probe import LinearProbeConfig
from tunewise.methods.trained_config import TrainedConfig
from tunewise.models.tiny_causal import ARCHITECTURES as CAUSAL
from tunewise.models.tiny_seq2seq import ARCHITECTURES as SEQ2SEQ
from tunewise.predictors.bundle import load_predictor
from tunewise.types import Prediction, to_plain

HEADLESS = "bert without a head for masked words"
ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert")
CELLS = (
    [(rung, "bert") for rung in LADDER if "masked" in get_method(rung).families]
    + [
        (rung, architecture)
        for rung in ("linear_probe", "contrastive", "prompt_tuning", "bitfit", "ia3", "adapter", "lora", "full")
        for architecture in ARCHITECTURES[1:]
    ]
    + [(rung, architecture) for rung in ("zero_shot", "cloze") for architecture in ARCHITECTURES[1:]]
    + [("prefix_tuning", "roberta"), ("prefix_tuning", "electra"), ("zero_shot", HEADLESS), ("lora", HEADLESS)]
    + [(rung, architecture) for rung in LADDER for architecture in CAUSAL if "causal" in get_method(rung).families]
    + [(rung, architecture) for rung in LADDER for architecture in SEQ2SEQ if "seq2seq" in get_method(rung).families]
)
Contexts = Callable[[str], Context]


def home(rung: str) -> str:
    """The architecture that a rung is tried on where one is enough."""
    return "bert" if "masked" in get_method(rung).families else "llama"


HOMES = [(rung, home(rung)) for rung in LADDER] + [("prefix_tuning", "t5")]  # which has a decoder to sit in
TRAINED_HOMES = [(rung, architecture) for rung, architecture in HOMES if get_method(rung).trained]


def short(method: Method, context: Context, **changes: Any) -> Any:
    """The default config, trained for two passes."""
    config = method.default(context)
    if isinstance(config, TrainedConfig):
        config = dataclasses.replace(config, epochs=2.0, batch_size=6, **changes)
    return config


def close(left: list[Prediction], right: list[Prediction], tolerance: float = 1e-4) -> bool:
    gaps = [
        max(abs((a.scores or {})[label] - (b.scores or {})[label]) for label in (a.scores or {}))
        for a, b in zip(left, right, strict=True)
    ]
    return len(left) == len(right) and max(gaps) < tolerance


def finished(method: Method, context: Context, configs: list[Any]) -> Bracket:
    bracket = method.open(context, configs)
    bracket.advance(bracket.horizon)
    return bracket


@pytest.mark.parametrize(("rung", "architecture"), CELLS)
def test_a_rung_ends_in_a_predictor_that_answers_the_same_from_disk(
    rung: str, architecture: str, context_for: Contexts, tmp_path: Path
) -> None:
    method, context = get_method(rung), context_for(architecture)
    assert method.skip(context) is None
    bracket = finished(method, context, [short(method, context)])
    predictor = bracket.predictor(0)
    bracket.close()
    race = context.fold.race
    answers = predictor.predict(race)
    assert [round(sum((a.scores or {}).values()), 5) for a in answers] == [1.0] * len(race)
    assert {a.text for a in answers} <= set(context.labels)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert close(loaded.predict(race), answers, 1e-5)
    assert close([loaded.predict([row])[0] for row in race], answers, 1e-5), "an answer depends on its neighbours"


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_probe_of_an_inner_layer_answers_the_same_from_disk(
    architecture: str, context_for: Contexts, tmp_path: Path
) -> None:
    method, context = get_method("linear_probe"), context_for(architecture)
    bracket = finished(method, context, [LinearProbeConfig(layer=1), LinearProbeConfig()])
    inner, last = bracket.predictions()
    assert not close(inner, last, 1e-3)
    bracket.predictor(0).save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert close(loaded.predict(context.fold.race), inner, 1e-5)


@pytest.mark.parametrize(("rung", "architecture"), HOMES)
def test_a_member_is_scored_as_its_predictor_answers(rung: str, architecture: str, context_for: Contexts) -> None:
    method, context = get_method(rung), context_for(architecture)
    bracket = finished(method, context, [short(method, context)])
    said = bracket.predictions()[0]
    losses_PE = bracket.losses()
    assert close(said, bracket.predictor(0).predict(context.fold.race), 1e-4)
    expected_E = [
        -np.log(max((p.scores or {})[str(e.target)], 1e-12)) for p, e in zip(said, context.fold.race, strict=True)
    ]
    np.testing.assert_allclose(losses_PE[0], expected_E, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rung", "architecture"), TRAINED_HOMES)
def test_results_do_not_depend_on_how_a_bracket_was_advanced(
    rung: str, architecture: str, context_for: Contexts
) -> None:
    method, context = get_method(rung), context_for(architecture)
    configs = [short(method, context), short(method, context, learning_rate=3e-3)]
    whole = finished(method, context, configs)
    # how members are grouped is measured when a bracket is opened, and changes the last bits
    sliced = method.open(dataclasses.replace(context, layout=whole.layout), configs)
    sliced.advance(2, [1])  # one goes ahead
    while sliced.fidelity < sliced.horizon:
        sliced.advance(sliced.fidelity + 3)
    np.testing.assert_array_equal(whole.losses(), sliced.losses())


@pytest.mark.parametrize(("rung", "architecture"), TRAINED_HOMES)
def test_a_restored_bracket_continues_bit_for_bit(rung: str, architecture: str, context_for: Contexts) -> None:
    method, context = get_method(rung), context_for(architecture)
    configs = [short(method, context), short(method, context, learning_rate=3e-3)]
    first = method.open(context, configs)
    context = dataclasses.replace(context, layout=first.layout)
    first.advance(5)
    tensors, meta = first.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    first.advance(first.horizon)
    second = method.open(context, configs)
    second.restore(tensors, meta)
    assert second.fidelity == 5
    second.advance(second.horizon)
    np.testing.assert_array_equal(first.losses(), second.losses())


@pytest.mark.parametrize(("rung", "architecture"), HOMES)
def test_keeping_members_changes_nothing_for_those_that_stay(
    rung: str, architecture: str, context_for: Contexts
) -> None:
    method, context = get_method(rung), context_for(architecture)
    configs = [short(method, context) for _ in range(3)]
    if method.trained:
        configs = [
            dataclasses.replace(c, learning_rate=rate) for c, rate in zip(configs, (1e-4, 1e-3, 3e-3), strict=True)
        ]
    alone = finished(method, context, [configs[1]])
    bracket = method.open(context, configs)
    bracket.advance(max(1, bracket.horizon // 2))
    bracket.keep([1])
    bracket.advance(bracket.horizon)
    assert bracket.size == 1
    np.testing.assert_allclose(bracket.losses(), alone.losses(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rung", "architecture"), HOMES)
def test_the_base_is_left_as_it_was_found(rung: str, architecture: str, context_for: Contexts) -> None:
    method, context = get_method(rung), context_for(architecture)
    before = {name: value.clone() for name, value in context.base.model.state_dict().items()}
    bracket = finished(method, context, [short(method, context)])
    predictor = bracket.predictor(0)
    bracket.close()
    predictor.predict(context.fold.race)
    after = context.base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)


@pytest.mark.parametrize("rung", list(LADDER))
def test_a_config_survives_the_ledger_and_refuses_unknown_keys(rung: str, context_for: Contexts) -> None:
    method, context = get_method(rung), context_for(home(rung))
    config = method.default(context)
    assert from_plain(method.Config, to_plain(config), where=rung) == config
    with pytest.raises(Exception, match="there is no key 'learning_rat'"):
        from_plain(method.Config, {"learning_rat": 1}, where=rung)


@pytest.mark.parametrize("rung", list(LADDER))
def test_a_cost_is_stated_before_anything_is_spent(rung: str, context_for: Contexts) -> None:
    method, context = get_method(rung), context_for(home(rung))
    cost = method.cost(context, method.default(context))
    assert cost.work >= 0
    assert cost.seconds == pytest.approx(cost.work * context.seconds_per_work)
    if method.trained:
        assert cost.trainable_parameters > 0
        assert cost.memory_bytes > 0


@pytest.mark.parametrize(("rung", "architecture"), [("lora", "bert"), ("full", "bert"), ("prefix_tuning", "t5")])
def test_the_work_that_was_stated_is_the_work_that_is_spent(
    rung: str, architecture: str, context_for: Contexts
) -> None:
    method, context = get_method(rung), context_for(architecture)
    config = short(method, context, learning_rate=1e-4)  # so slow that it does not stop before its end
    bracket = method.open(context, [config])
    spent = bracket.advance(bracket.horizon)
    assert method.cost(context, config).work / 1.5 < spent < method.cost(context, config).work * 1.5


def test_every_rung_is_named_as_it_is_registered() -> None:
    assert [get_method(name).name for name in LADDER] == list(LADDER)
    assert next(iter(LADDER)) == "majority"
    assert list(LADDER)[-1] == "full"
