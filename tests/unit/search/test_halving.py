"""A bracket shrinks where the order holds, and only there."""

import numpy as np
import pytest

from tunewise.search.halving import SHAKY, Measured, cut, expected_share, first_cut, looks, stability, trust

EXAMPLES = 200


def losses(means: list[float], seed: int, noise: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared_E = rng.normal(0, 1.0, EXAMPLES)  # hard examples are hard for every member
    return np.array(means)[:, None] + shared_E + rng.normal(0, noise, (len(means), EXAMPLES))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


MEANS = [0.9, 0.2, 0.8, 0.3, 0.7, 0.6, 0.5, 0.4, 1.0, 1.1, 1.2, 1.3, 1.4, 0.1]


def test_where_the_order_held_among_the_pilots_they_and_the_best_quarter_go_on() -> None:
    decision = first_cut(losses(MEANS, 1), losses(MEANS, 2)[:12], rng=rng())
    assert decision.keep == (*range(12), 13)
    assert decision.measured is not None
    assert decision.measured.stability > 0.9
    assert decision.measured.members == 12


def test_where_it_turned_among_them_losses_decide_nothing() -> None:
    turned = [-mean for mean in MEANS]
    decision = first_cut(losses(turned, 1), losses(MEANS, 2)[:12], rng=rng())
    assert decision.keep == tuple(range(7))
    assert "the order did not hold" in decision.why


def test_where_the_order_holds_the_square_root_of_the_members_go_on() -> None:
    decision = cut(losses(MEANS, 1), losses(MEANS, 2), (), rng=rng())
    assert decision.keep == (1, 3, 7, 13)
    assert decision.trust > 0.8


def test_an_order_that_held_before_still_decides_between_two() -> None:
    shown = [Measured(stability=0.9, members=10)]
    assert cut(losses([0.9, 0.1], 1), losses([0.9, 0.1], 2), shown, rng=rng()).keep == (1,)


def test_three_members_prove_little() -> None:
    decision = cut(losses(MEANS[:3], 1), losses(MEANS[2::-1], 2), (), rng=rng())
    assert decision.keep == (0, 1, 2)
    assert trust([Measured(stability=0.7, members=3)]) < SHAKY


def test_single_numbers_are_compared_by_their_ranks() -> None:
    assert stability(np.array([[1.0], [2.0], [4.0]]), np.array([[3.0], [8.0], [9.0]]), rng=rng()) == pytest.approx(1.0)


def test_noise_shared_by_all_members_does_not_pass_for_stability() -> None:
    flat = [0.5] * 6
    values = [stability(losses(flat, seed), losses(flat, seed + 100), rng=rng()) for seed in range(30)]
    assert abs(float(np.mean(values))) < 0.25


def test_nobody_leaves_at_the_first_look() -> None:
    assert cut(None, losses([0.9, 0.1, 0.5], 1), (), rng=rng()).keep == (0, 1, 2)


def test_a_member_that_diverged_leaves_at_any_look() -> None:
    now = losses([0.9, 0.1, 0.5], 1)
    now[1] = np.inf
    assert cut(None, now, (), rng=rng()).keep == (0, 2)


def test_pilots_that_diverged_leave_and_do_not_take_the_place_of_others() -> None:
    first, ahead = losses(MEANS[:8], 1), losses(MEANS[:8], 2)
    ahead[[0, 1, 2, 3, 6, 7]] = np.inf
    assert first_cut(first, ahead, rng=rng()).keep == (4, 5)
    held = losses(MEANS, 2)[:12]
    held[1] = np.inf
    assert first_cut(losses(MEANS, 1), held, rng=rng()).keep == (0, *range(2, 12), 13)


def test_two_members_are_never_halved_without_evidence() -> None:
    assert cut(losses([0.9, 0.1], 1), losses([0.9, 0.1], 2), (), rng=rng()).keep == (0, 1)
    assert first_cut(losses([0.9, 0.1], 1), losses([0.9, 0.1], 2), rng=rng()).keep == (0, 1)


@pytest.mark.parametrize(
    ("members", "share"),
    [(1, 1.0), (2, 2.0), (6, 0.6 + 0.3 + 3 * 0.9), (32, 3.2 + 16 * 0.9)],
)
def test_the_expected_work_of_a_bracket(members: int, share: float) -> None:
    assert expected_share(members) == pytest.approx(share)


@pytest.mark.parametrize(
    ("horizon", "marks"),
    [
        (5000, [250, 500, 1250, 3000]),
        (128, [6, 13, 32, 77]),
        (96, [12, 24, 48, 72]),
        (64, [8, 16, 32, 48]),
        (24, [3, 6, 12, 18]),
        (4, [1, 2, 3]),
    ],
)
def test_short_runs_are_not_compared_while_they_warm_up(horizon: int, marks: list[int]) -> None:
    assert sorted({mark for mark, _ in looks(16, horizon)}) == marks


def test_nothing_is_compared_where_there_is_nothing_between_start_and_end() -> None:
    assert looks(16, 1) == looks(16, 2) == looks(2, 5000) == []


def test_members_that_have_not_answered_anew_are_no_evidence() -> None:
    same = losses([0.9, 0.7, 0.5, 0.3, 0.2, 0.1], 1)
    assert first_cut(same, same, rng=rng()).measured is None
    assert cut(same, same, (), rng=rng()).keep == (0, 1, 2, 3, 4, 5)
    moved = same.copy()
    moved[:3] -= 0.05
    found = cut(same, moved, (), rng=rng()).measured
    assert found is not None
    assert found.members == 3
