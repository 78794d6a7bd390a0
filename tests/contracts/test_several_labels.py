"""What a rung that says it answers with several labels keeps; the others stay out with a sentence."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewise.errors import ConfigError
from tunewise.methods import LADDER, get_method
from tunewise.methods.base import Bracket, Context, Method, skip_reason
from tunewise.methods.trained_config import TrainedConfig
from tunewise.models.embed import FeatureStore
from tunewise.predictors.bundle import load_predictor
from tunewise.types import Example, Prediction

SEVERAL = [name for name in LADDER if getattr(get_method(name), "several", False)]


@pytest.fixture
def context(context_for: Callable[[str], Context]) -> Context:
    """The task of the other contracts, where a text is also "short" or not, and crashes have no label of their own."""
    plain = context_for("bert")

    def marked(example: Example) -> Example:
        short = ("short",) if len(example.texts[0]) < 30 else ()
        own = () if example.target == "crash" else example.labels
        return dataclasses.replace(example, target=(*own, *short))

    fold = dataclasses.replace(
        plain.fold, train=tuple(map(marked, plain.fold.train)), race=tuple(map(marked, plain.fold.race))
    )
    features = FeatureStore(plain.base, "keep_start", (*fold.train, *fold.race), None)
    return dataclasses.replace(
        plain, folds=(fold,), labels=("billing", "login", "short"), several=True, features=features
    )


def finished(method: Method, context: Context, **changes: Any) -> Bracket:
    config = method.default(context)
    if isinstance(config, TrainedConfig):
        config = dataclasses.replace(config, **{"epochs": 2.0, "batch_size": 6, **changes})
    bracket = method.open(context, [config])
    bracket.advance(bracket.horizon)
    return bracket


def close(left: list[Prediction], right: list[Prediction], tolerance: float) -> bool:
    return all(
        abs((a.scores or {})[label] - (b.scores or {})[label]) < tolerance
        for a, b in zip(left, right, strict=True)
        for label in (a.scores or {})
    )


def test_the_usual_rungs_answer_with_several_labels() -> None:
    assert {"majority", "zero_shot", "retrieval", "linear_probe", "lora", "full"} <= set(SEVERAL)


@pytest.mark.parametrize("rung", SEVERAL)
def test_a_rung_gives_several_labels_the_same_from_disk(rung: str, context: Context, tmp_path: Path) -> None:
    method = get_method(rung)
    assert skip_reason(method, context) is None
    bracket = finished(method, context)
    race = context.fold.race
    predictor = bracket.predictor(0)
    said, losses_E = bracket.predictions()[0], bracket.losses()[0]
    bracket.close()
    assert predictor.thresholds == (0.5, 0.5, 0.5)
    answers = predictor.predict(race)
    assert close(said, answers, 1e-4)
    for answer in answers:
        assert answer.labels == tuple(label for label, share in (answer.scores or {}).items() if share >= 0.5)
    assert any(abs(sum((a.scores or {}).values()) - 1) > 0.01 for a in answers), "shares of one label"
    share_EL = np.array([[(a.scores or {})[label] for label in context.labels] for a in answers])
    right_EL = np.where(context.wanted(race) > 0, share_EL, 1 - share_EL)
    np.testing.assert_allclose(losses_E, -np.log(np.maximum(right_EL, 1e-12)).mean(axis=1), rtol=1e-3, atol=1e-4)

    predictor.thresholds = (0.3, 0.5, 0.9)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert loaded.thresholds == (0.3, 0.5, 0.9)
    assert close(loaded.predict(race), answers, 1e-5)
    assert [a.labels for a in loaded.predict(race)] == [a.labels for a in predictor.predict(race)]


@pytest.mark.parametrize("rung", [name for name in SEVERAL if name not in ("majority", "zero_shot")])
def test_a_rung_learns_which_labels_a_text_has(rung: str, context: Context) -> None:
    method = get_method(rung)
    seen = dataclasses.replace(context, folds=(dataclasses.replace(context.fold, race=context.fold.train),))
    losses_E = finished(method, seen, epochs=10.0).losses()[0]
    floor_E = finished(get_method("majority"), seen).losses()[0]
    assert losses_E.mean() < floor_E.mean()


@pytest.mark.parametrize(
    "rung", [name for name in LADDER if name not in SEVERAL and "masked" in get_method(name).families]
)
def test_a_rung_for_one_label_stays_out_and_never_half_works(rung: str, context: Context) -> None:
    method = get_method(rung)
    assert skip_reason(method, context) == (f"{rung} is built for one label per text, and here a text may have several")
    with pytest.raises(ConfigError, match="this rung reads one label per text, and here a text may have several"):
        context.target_indices(context.fold.train)


def test_weights_by_class_are_refused_where_there_are_several(context: Context) -> None:
    with pytest.raises(ConfigError, match=r"`class_weights: balanced` weighs rows by their one label"):
        finished(get_method("lora"), context, class_weights="balanced")


def test_the_floor_says_what_more_than_half_of_the_texts_have(context: Context) -> None:
    rate = context.wanted(context.fold.train).mean(axis=0)
    (answer, *_) = finished(get_method("majority"), context).predictions()[0]
    assert answer.scores == pytest.approx(dict(zip(context.labels, rate, strict=True)))
    assert answer.labels == tuple(label for label, share in zip(context.labels, rate, strict=True) if share >= 0.5)


def test_zero_shot_says_yes_to_texts_nearer_to_a_label_than_the_average_one(context: Context) -> None:
    predictor = finished(get_method("zero_shot"), context).predictor(0)
    share_EL = np.array([list((p.scores or {}).values()) for p in predictor.predict(context.fold.train)])
    np.testing.assert_allclose(np.log(share_EL / (1 - share_EL)).mean(axis=0), 0.0, atol=1e-3)
