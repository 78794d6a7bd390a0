"""A bracket shrinks where the order holds, and only there."""

import numpy as np
import pytest

from tunewise.search.halving import decide, expected_share, stability

EXAMPLES = 200


def losses(means: list[float], seed: int, noise: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared_E = rng.normal(0, 1.0, EXAMPLES)  # hard examples are hard for every member
    return np.array(means)[:, None] + shared_E + rng.normal(0, noise, (len(means), EXAMPLES))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_where_the_order_holds_the_best_third_go_on() -> None:
    means = [0.9, 0.2, 0.8, 0.3, 0.7, 0.6]
    decision = decide(losses(means, 1), losses(means, 2), rng=rng())
    assert decision.keep == (1, 3)
    assert decision.stability is not None
    assert decision.stability > 0.9


def test_where_the_order_turned_losses_decide_nothing() -> None:
    means = [0.9, 0.2, 0.8, 0.3, 0.7, 0.6]
    decision = decide(losses(means[::-1], 1), losses(means, 2), rng=rng())
    assert decision.keep == (0, 1, 2)
    assert "the order did not hold" in decision.why


def test_noise_shared_by_all_members_does_not_pass_for_stability() -> None:
    flat = [0.5] * 6
    values = [stability(losses(flat, seed), losses(flat, seed + 100), rng=rng()) for seed in range(30)]
    assert abs(float(np.mean(values))) < 0.25


def test_nobody_leaves_at_the_first_look() -> None:
    assert decide(None, losses([0.9, 0.1, 0.5], 1), rng=rng()).keep == (0, 1, 2)


def test_a_member_that_diverged_leaves_at_any_look() -> None:
    now = losses([0.9, 0.1, 0.5], 1)
    now[1] = np.inf
    assert decide(None, now, rng=rng()).keep == (0, 2)


def test_two_members_are_never_halved() -> None:
    assert decide(losses([0.9, 0.1], 1), losses([0.9, 0.1], 2), rng=rng()).keep == (0, 1)


@pytest.mark.parametrize(("members", "share"), [(1, 1.0), (2, 2.0), (6, 6 / 4 + 3 / 4 + 1 / 2)])
def test_the_expected_work_of_a_bracket(members: int, share: float) -> None:
    assert expected_share(members) == pytest.approx(share)
