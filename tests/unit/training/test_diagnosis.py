"""Each shape of a curve gets its name, noise gets none, and short curves get no diagnosis."""

import numpy as np
import pytest

from tunewise.training.diagnosis import ADVICE, HINTS, Diagnosis, diagnose, nudge
from tunewise.types import Curve

STEPS = 400


def curve(train, dev, *, noise=0.05, dev_noise=0.0, seed=0, points=100, evaluations=8, best_step=-1) -> Curve:
    """`train` and `dev` are losses by share of the steps."""
    rng = np.random.default_rng(seed)
    train_steps = np.linspace(STEPS / points, STEPS, points).astype(int)
    dev_steps = np.linspace(STEPS / evaluations, STEPS, evaluations).astype(int)
    return Curve(
        train_steps=tuple(map(int, train_steps)),
        train_losses=tuple(float(max(1e-4, train(s / STEPS) + rng.normal(0, noise))) for s in train_steps),
        dev_steps=tuple(map(int, dev_steps)),
        dev_losses=tuple(float(dev(s / STEPS) + rng.normal(0, dev_noise)) for s in dev_steps),
        best_step=best_step,
    )


def falling(to: float, speed: float, start: float = 1.5):
    return lambda share: to + (start - to) * float(np.exp(-speed * share))


def then(first, rise: float, since: float):
    """As `first`, and from `since` on rising (or falling) by `rise` to the end."""
    return lambda share: first(min(share, since)) + rise * max(0.0, share - since) / (1 - since)


SHAPES = {
    "healthy": (falling(0.1, 8), falling(0.3, 8)),
    "overfitting": (falling(0.02, 6), then(falling(0.35, 9), 0.3, 0.4)),
    "underfitting": (falling(0.1, 0.8), falling(0.2, 0.8)),
    "plateau": (lambda share: 1.4, lambda share: 1.42),
    "divergence": (lambda share: 0.8 + 2 * share, lambda share: 0.9 + 2 * share),
    "label noise": (then(falling(0.7, 16), -0.12, 0.3), then(falling(0.75, 16), 0.05, 0.4)),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gets_its_name_and_its_numbers(name, seed):
    found = diagnose(curve(*SHAPES[name], seed=seed))
    assert found is not None
    assert found.name == name, found.sentence
    assert any(letter.isdigit() for letter in found.sentence)
    assert found.advice == ADVICE[name]


@pytest.mark.parametrize("seed", range(20))
def test_noise_on_dev_is_not_overfitting(seed):
    found = diagnose(curve(falling(0.05, 8), falling(0.4, 8), dev_noise=0.006, seed=seed))
    assert found is not None
    assert found.name == "healthy", found.sentence


def test_noise_on_a_flat_dev_under_a_falling_train_is_rarely_taken_for_a_rise():
    found = [diagnose(curve(falling(0.05, 3), falling(0.4, 12), dev_noise=0.02, seed=seed)) for seed in range(200)]
    assert sum(each is None or each.name != "healthy" for each in found) <= 20


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_a_plateau_and_nothing_else(seed):
    found = diagnose(curve(lambda share: 1.0, lambda share: 1.0, noise=0.3, dev_noise=0.02, seed=seed))
    assert found is not None
    assert found.name == "plateau", found.sentence


def test_the_evidence_of_overfitting_is_the_rise_over_the_minimum():
    found = diagnose(curve(*SHAPES["overfitting"], noise=0.0))
    # dev is lowest at the third of eight evaluations: 0.35 + 1.15 exp(-9 * 0.375) = 0.389; from 0.381 at 0.4 it rises
    # by 0.3, so its last two are 0.619 and 0.681, on average 0.261 above the minimum
    assert found is not None
    assert "from its minimum 0.389 at step 150 of 400" in found.sentence
    assert "dev loss rose by 0.261" in found.sentence


def test_growing_confidence_alone_is_not_overfitting():
    shape = SHAPES["overfitting"]
    assert diagnose(curve(*shape, best_step=150)).name == "overfitting"  # type: ignore[union-attr]
    assert diagnose(curve(*shape, best_step=STEPS)).name == "healthy"  # type: ignore[union-attr]


def test_a_rising_dev_loss_without_falling_train_is_not_overfitting():
    found = diagnose(curve(falling(0.5, 60, start=1.5), then(falling(0.5, 60), 0.2, 0.3)))
    assert found is not None
    assert found.name != "overfitting"


def test_where_batches_are_too_noisy_to_tell_dev_does():
    """Eight points of train that could hide a fall of a third are no plateau while dev falls."""
    found = diagnose(curve(falling(0.4, 3, start=0.6), falling(0.45, 3, start=0.65), noise=0.15, points=8, seed=1))
    assert found is not None
    assert found.name != "plateau", found.sentence


def test_nothing_left_to_learn_is_no_plateau():
    found = diagnose(curve(lambda share: 0.01, lambda share: 0.2, noise=0.001))
    assert found is not None
    assert found.name == "healthy"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_divergence_however_short(bad):
    found = diagnose(Curve(train_steps=(1, 2), train_losses=(1.0, bad)))
    assert found == Diagnosis(name="divergence", sentence="train loss was not a finite number at step 2")
    found = diagnose(Curve(dev_steps=(7,), dev_losses=(bad,)))
    assert found == Diagnosis(name="divergence", sentence="dev loss was not a finite number at step 7")


@pytest.mark.parametrize(("points", "evaluations"), [(7, 8), (100, 3), (1, 1)])
def test_a_short_curve_gets_no_diagnosis(points, evaluations):
    shape = SHAPES["overfitting"]
    assert diagnose(curve(*shape, points=points, evaluations=evaluations)) is None
    assert diagnose(Curve()) is None


def test_the_shortest_curve_that_is_judged_is_judged_without_error():
    for name, shape in SHAPES.items():
        assert diagnose(curve(*shape, noise=0.0, points=8, evaluations=4)) is not None, name


def test_hints_multiply_what_every_trained_rung_has():
    assert nudge(None) == {}
    for name in ADVICE:
        hints = nudge(Diagnosis(name=name, sentence=""))
        assert hints == HINTS[name]
        assert set(hints) <= {"epochs", "learning_rate"}
        assert all(0 < factor != 1 for factor in hints.values())
    assert nudge(Diagnosis(name="overfitting", sentence=""))["epochs"] < 1
    assert nudge(Diagnosis(name="underfitting", sentence=""))["epochs"] > 1
    assert nudge(Diagnosis(name="divergence", sentence=""))["learning_rate"] < 1
    assert nudge(Diagnosis(name="plateau", sentence=""))["learning_rate"] > 1
    nudge(Diagnosis(name="plateau", sentence=""))["learning_rate"] = 0.0
    assert nudge(Diagnosis(name="plateau", sentence=""))["learning_rate"] > 1, "the table was handed out to be changed"
