"""The cheapest candidate that is not worse than the best by more than the margin; open questions stay open."""

import re

import numpy as np
import pytest

from tunewise.evaluation.choice import Contender, choose
from tunewise.evaluation.metrics import METRICS


def hits(wrong: range, n: int) -> np.ndarray:
    """Right everywhere but on these rows."""
    hit_E = np.ones(n)
    hit_E[list(wrong)] = 0.0
    return hit_E[:, None]


def chosen(*wrong: range, n: int, margin: float = 0.01, metric: str = "accuracy", **more):
    names = ["probe", "lora", "full"]
    contenders = [
        Contender(name, (cost,), hits(rows, n), *more.get("seeds", {}).get(name, ()))
        for cost, (name, rows) in enumerate(zip(names, wrong, strict=False))
    ]
    rng = np.random.default_rng(0)
    return choose(contenders, METRICS.get(metric), n_labels=2, margin=margin, rng=rng, draws=1000)


def test_the_only_candidate_is_chosen():
    choice = chosen(range(5), n=100)
    assert (choice.index, choice.resolved, choice.rows_to_resolve) == (0, True, None)
    assert choice.why == "probe is the only candidate with a score"


def test_a_cheaper_one_within_the_margin_wins():
    choice = chosen(range(400), range(4, 400), n=4000)
    assert (choice.index, choice.best_index, choice.resolved, choice.rows_to_resolve) == (0, 1, True, None)
    assert re.fullmatch(
        r"probe is within 1 point of the best \(lora \+0\.1 \[[+-]0\.\d, \+0\.\d\]\) and is cheaper", choice.why
    )


def test_a_dearer_one_that_is_clearly_better_wins():
    choice = chosen(range(800), range(400), n=4000)
    assert (choice.index, choice.best_index, choice.resolved) == (1, 1, True)
    assert choice.why.startswith("lora is the best (next probe -10.0 [-1")
    assert choice.why.endswith("and nothing cheaper is shown to be within 1 point of it")


def test_the_best_and_cheapest_wins():
    choice = chosen(range(100), range(800), n=4000)
    assert (choice.index, choice.resolved) == (0, True)
    assert choice.why.endswith("and nothing is cheaper")


def test_too_few_rows_leave_it_open_and_say_how_many_would_do():
    # they differ on 14 + 13 of 200 rows: 0.5 points, standard error sqrt(27/200 - 0.005^2) / sqrt(200) = 2.6 points
    choice = chosen(range(14), range(14, 27), n=200)
    assert (choice.index, choice.best_index, choice.resolved) == (0, 1, False)
    # 1.645 standard errors are one point at 200 (1.645 * 2.598)^2 = 3,653 rows
    assert choice.rows_to_resolve == pytest.approx(3653, rel=0.15)
    assert re.fullmatch(
        r"probe is the cheapest within the margin and one standard error of the best "
        r"\(lora \+0\.5 \[-\d\.\d, \+\d\.\d\]\), "
        r"but 200 rows cannot settle differences of 1 point; about [34],\d00 would",
        choice.why,
    )


def test_open_and_behind_by_more_than_the_margin_takes_the_best():
    # 1.5 points behind with a standard error of 2.6: noise allows for it, but the margin says it is too much to give up
    choice = chosen(range(15), range(15, 27), n=200)
    assert (choice.index, choice.best_index, choice.resolved) == (1, 1, False)


def test_open_and_beyond_one_standard_error_takes_the_best():
    choice = chosen(range(20), range(20, 30), n=200)
    assert (choice.index, choice.resolved) == (1, False)
    assert choice.why.startswith("lora is the best here (next probe -5.0 [")


def test_being_best_here_is_not_enough():
    # the probe leads by a hair on 200 rows, so the truly best one may still be 3 points better
    choice = chosen(range(12), range(12, 25), n=200)
    assert (choice.index, choice.best_index, choice.resolved) == (0, 0, False)


def test_identical_answers_on_few_rows_prove_little():
    # rule of three: 100 rows that agree leave up to 3 % that do not
    assert not chosen(range(5), range(5), n=100).resolved
    assert chosen(range(5), range(5), n=100).rows_to_resolve == 300  # -ln(0.05) / 0.01
    assert chosen(range(5), range(5), n=400).resolved


def test_seed_noise_widens_the_bounds_and_no_rows_cure_it():
    seeds = {"probe": (0.0,), "lora": (0.02,)}
    calm, noisy = chosen(range(400), range(4, 400), n=4000), chosen(range(400), range(4, 400), n=4000, seeds=seeds)
    assert calm.resolved
    assert (noisy.resolved, noisy.rows_to_resolve) == (False, None)
    assert noisy.why.endswith("and no number of rows would: refits with other seeds differ by more than that")


def test_a_margin_of_zero_is_never_reached():
    choice = chosen(range(15), range(15, 27), n=200, margin=0.0)
    assert (choice.resolved, choice.rows_to_resolve) == (False, None)
    assert "a margin of 0 cannot be reached" in choice.why


def test_lower_is_better_where_the_metric_says_so():
    good, bad = np.full((500, 1), 0.2), np.full((500, 1), 0.9)
    noise = np.random.default_rng(0).normal(0, 0.05, (500, 1))
    contenders = [Contender("probe", (0,), bad + noise), Contender("lora", (1,), good)]
    choice = choose(
        contenders, METRICS.get("log_loss"), n_labels=2, margin=0.05, rng=np.random.default_rng(0), draws=300
    )
    assert (choice.index, choice.resolved) == (1, True)
    assert "nats" in choice.why


def test_cost_rank_decides_and_not_the_order_of_the_list():
    a, b = Contender("dear", (2, 9), hits(range(10), 4000)), Contender("cheap", (2, 1), hits(range(2, 12), 4000))
    rng = np.random.default_rng
    there = choose([a, b], METRICS.get("accuracy"), n_labels=2, margin=0.01, rng=rng(0))
    back = choose([b, a], METRICS.get("accuracy"), n_labels=2, margin=0.01, rng=rng(0))
    assert (there.index, back.index) == (1, 0)


def test_rows_of_one_conversation_count_together():
    contenders = [Contender("probe", (0,), hits(range(400), 4000)), Contender("lora", (1,), hits(range(4, 400), 4000))]
    metric, rng = METRICS.get("accuracy"), np.random.default_rng
    clusters = [str(i // 100) for i in range(4000)]
    assert choose(contenders, metric, n_labels=2, margin=0.01, rng=rng(0)).resolved
    assert not choose(contenders, metric, n_labels=2, margin=0.01, clusters=clusters, rng=rng(0)).resolved
