"""The best of many owes something to luck; what it owes is found on rows that did not pick it."""

import numpy as np
import pytest

from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.base import Metric
from tunewise.evaluation.optimism import optimism
from tunewise.types import Prediction

LABELS = ("0", "1")
ACCURACY = METRICS.get("accuracy")


def answers(share: float, n: int, rng: np.random.Generator, metric: Metric = ACCURACY) -> np.ndarray:
    """Statistics of a candidate that is right about this often, of two labels."""
    targets = [LABELS[i % 2] for i in range(n)]
    said = [target if rng.random() < share else LABELS[target == LABELS[0]] for target in targets]
    return metric.statistics(targets, [Prediction(text=text) for text in said], LABELS)


def best_of(tables: list[np.ndarray]) -> np.ndarray:
    return max(tables, key=lambda table: ACCURACY.aggregate(table, 2))


def test_the_best_of_many_equals_is_brought_back_to_what_they_are() -> None:
    raw, corrected = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables = [answers(0.7, 40, rng) for _ in range(12)]
        winner = best_of(tables)
        raw.append(ACCURACY.aggregate(winner, 2))
        corrected.append(raw[-1] - optimism(winner, tables, ACCURACY, n_labels=2, rng=rng))
    assert np.mean(raw) > 0.79
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.03)


def test_one_that_is_better_on_any_rows_owes_nothing() -> None:
    rng = np.random.default_rng(1)
    tables = [answers(0.95, 60, rng), *(answers(0.5, 60, rng) for _ in range(5))]
    assert optimism(tables[0], tables, ACCURACY, n_labels=2, rng=rng) == pytest.approx(0.0, abs=1e-9)
    assert optimism(tables[0], tables[:1], ACCURACY, n_labels=2, rng=rng) == 0.0


@pytest.mark.parametrize("name", ["macro_f1", "mae", "quadratic_kappa"])
def test_it_is_never_negative_and_in_the_metrics_own_direction(name: str) -> None:
    rng = np.random.default_rng(2)
    metric = METRICS.get(name)
    tables = [answers(0.7, 40, rng, metric) for _ in range(12)]
    sign = 1.0 if metric.greater_is_better else -1.0
    winner = max(tables, key=lambda table: sign * metric.aggregate(table, 2))
    assert 0.02 < optimism(winner, tables, metric, n_labels=2, rng=rng) < 0.5


def test_a_metric_that_is_lower_on_few_rows_makes_no_difference() -> None:
    rng = np.random.default_rng(3)
    macro_f1 = METRICS.get("macro_f1")
    one = answers(0.7, 12, rng, macro_f1)
    assert optimism(one, [one, one.copy()], macro_f1, n_labels=2, rng=rng) == 0.0


def test_clusters_come_and_go_whole() -> None:
    rng = np.random.default_rng(4)
    tables = [answers(0.7, 40, rng) for _ in range(12)]
    winner = best_of(tables)
    # one cluster lies in every resample, so no row is left to tell
    assert optimism(winner, tables, ACCURACY, n_labels=2, clusters=["all"] * 40, rng=rng) == 0.0
    # eight texts five times each: what is left out tells as little as eight rows do, and luck weighs more
    few = [np.repeat(table[:8], 5, axis=0) for table in tables]
    names = [str(i // 5) for i in range(40)]
    together, apart = (
        optimism(best_of(few), few, ACCURACY, n_labels=2, clusters=own, rng=np.random.default_rng(5))
        for own in (names, None)
    )
    assert together > apart + 0.02
