"""Minutes become work once; the purse is a function of what was recorded."""

import pytest

from tunewise.config import Budget
from tunewise.search.budget import SEARCH_SHARE, Clock, Purse, hard_stop, work_of


def test_minutes_become_work_by_the_measured_speed() -> None:
    budget = Budget(minutes=2.0)
    assert work_of(budget, seconds_spent=20.0, finish_seconds=0.0, seconds_per_work=0.001) == 100_000


def test_what_measuring_the_winners_takes_is_not_searched_with_but_for_half_of_the_minutes() -> None:
    budget = Budget(minutes=2.0)
    assert work_of(budget, seconds_spent=20.0, finish_seconds=30.0, seconds_per_work=0.001) == 70_000
    assert work_of(budget, seconds_spent=20.0, finish_seconds=90.0, seconds_per_work=0.001) == 50_000


def test_a_pinned_work_budget_does_not_look_at_the_clock() -> None:
    assert work_of(Budget(work=77, minutes=1.0), seconds_spent=50.0, finish_seconds=0.0, seconds_per_work=1.0) == 77


def test_trials_alone_leave_work_unlimited() -> None:
    assert work_of(Budget(trials=3), seconds_spent=0.0, finish_seconds=0.0, seconds_per_work=1.0) is None
    purse = Purse(total=None, trials=3, rates={})
    purse.pay("lora", "b", 10.0, candidates=2)
    assert purse.left == float("inf")
    assert purse.trials_left == 1


def test_a_slower_method_is_charged_more() -> None:
    purse = Purse(total=1000, trials=None, rates={"lora b": 1.5})
    purse.pay("lora", "b", 100, candidates=1)
    purse.pay("probe", "b", 100, candidates=1)
    assert purse.spent == 250
    assert purse.left == pytest.approx(SEARCH_SHARE * 1000 - 250)


def test_the_hard_stop_leaves_time_to_finish_within_a_tenth() -> None:
    assert hard_stop(Budget(minutes=10), 60.0) == 600.0
    assert hard_stop(Budget(minutes=1), 60.0) == 30.0, "half of the minutes are for the search in any case"
    assert hard_stop(Budget(work=1), 60.0) == float("inf")


def test_a_clock_counts_all_sittings() -> None:
    assert Clock(before=100.0).seconds >= 100.0
