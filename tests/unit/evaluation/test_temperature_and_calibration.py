"""A temperature makes probabilities mean what they say, and the calibration error says how far off they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.errors import ConfigError
from tunewise.evaluation.calibration import (
    expected_calibration_error,
    log_probabilities,
    mean_loss,
    scaled_losses,
    temperature,
)
from tunewise.types import Prediction


def sampled(seed: int, n: int, sharpened: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from true probabilities, and those probabilities taken to a power and renormalised."""
    rng = np.random.default_rng(seed)
    share_EL = rng.dirichlet(np.ones(4), n)
    target_E = np.array([rng.choice(4, p=row) for row in share_EL])
    log_EL = sharpened * np.log(share_EL)
    return log_EL - np.log(np.exp(log_EL).sum(axis=1, keepdims=True)), target_E


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_sharpening(sharpened):
    log_EL, target_E = sampled(0, 4000, sharpened)
    assert temperature(log_EL, target_E) == pytest.approx(sharpened, rel=0.08)


def test_on_paper():
    # p = 0.9 and right 3 times of 4: scaled odds 3 = 9^(1/T), so T = ln 9 / ln 3 = 2, and the loss is that of 3/4
    log_EL = np.log([[0.9, 0.1]] * 4)
    target_E = np.array([0, 0, 0, 1])
    assert temperature(log_EL, target_E) == pytest.approx(2.0)
    assert scaled_losses(log_EL, target_E, 2.0) == pytest.approx(-np.log([0.75, 0.75, 0.75, 0.25]))


def test_balanced_weighs_labels_equally():
    # label 0: three losses of 1, label 1: one loss of 5
    assert mean_loss(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1])) == 2.0
    assert mean_loss(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]), balanced=True) == 3.0
    # balanced, the fixed answer of 90 % for label 0 is right half of the time: as hot as is allowed
    assert temperature(np.log([[0.9, 0.1]] * 4), np.array([0, 0, 0, 1]), balanced=True) == 20.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), sharpened=st.floats(0.2, 5), balanced=st.booleans())
def test_no_other_temperature_is_better(seed, sharpened, balanced):
    log_EL, target_E = sampled(seed, 40, sharpened)
    best = temperature(log_EL, target_E, balanced=balanced)
    of_best = mean_loss(scaled_losses(log_EL, target_E, best), target_E, balanced=balanced)
    for other in (0.05, 0.5 * best, 0.95 * best, 1.05 * best, 2 * best, 20.0):
        if 0.05 <= other <= 20.0:
            of_other = mean_loss(scaled_losses(log_EL, target_E, other), target_E, balanced=balanced)
            assert of_best <= of_other + 1e-9


def test_limits_and_empty_sets():
    right, wrong = np.log([[0.9, 0.1]] * 5), np.log([[0.1, 0.9]] * 5)
    target_E = np.zeros(5, dtype=np.int64)
    assert temperature(right, target_E) == 0.05
    assert temperature(wrong, target_E) == 20.0
    assert temperature(np.log(np.full((5, 2), 0.5)), target_E) == 1.0
    assert temperature(np.empty((0, 2)), np.empty(0, dtype=np.int64)) == 1.0


def test_a_ruled_out_target_stays_finite():
    log_EL = np.array([[0.0, -np.inf], [0.0, -np.inf], [0.0, -np.inf]])
    target_E = np.array([0, 0, 1])
    assert np.isfinite(scaled_losses(log_EL, target_E, temperature(log_EL, target_E))).all()


def test_log_probabilities_follow_the_order_of_the_labels():
    answer = Prediction(text="b", scores={"b": 0.75, "a": 0.25})
    assert log_probabilities([answer], ["a", "b", "c"])[0] == pytest.approx([np.log(0.25), np.log(0.75), np.log(1e-12)])
    with pytest.raises(ConfigError, match="a temperature needs the probability of each label, and row 0 has none"):
        log_probabilities([Prediction(text="a")], ["a"])


def test_calibration_error_on_paper():
    # four answers at 0.9 of which three are right (gap 0.15), one at 0.6 that is right (gap 0.4)
    answers = [Prediction(text="a", scores={"a": 0.9, "b": 0.1})] * 4 + [
        Prediction(text="a", scores={"a": 0.6, "b": 0.4})
    ]
    targets = ["a", "a", "a", "b", "a"]
    assert expected_calibration_error(targets, answers) == pytest.approx((4 * 0.15 + 0.4) / 5)


def test_calibration_error_needs_probabilities():
    assert expected_calibration_error(["a"], [Prediction(text="a")]) is None
    assert expected_calibration_error([], []) is None
