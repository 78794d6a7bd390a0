"""Metrics of several labels equal scikit-learn's; thresholds lie where F1 is highest and do not follow single rows."""

import numpy as np
import pytest
from sklearn import metrics as sk

from tunewise.errors import ConfigError
from tunewise.evaluation.evaluate import evaluate
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.several import (
    check_several,
    find_thresholds,
    label_losses,
    probabilities,
    threshold_note,
)
from tunewise.predictors.several import from_shares, judged_again
from tunewise.types import Example, Prediction

SEVERAL = [name for name in METRICS if METRICS.get(name).several is not None]


def some(seed: int, n: int, labels: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names, 0 or 1 for what is wanted, and probabilities that agree with it more often than not."""
    rng = np.random.default_rng(seed)
    wanted_EL = (rng.random((n, labels)) < rng.uniform(0.1, 0.6, labels)).astype(np.float64)
    share_EL = np.clip(0.25 + 0.5 * wanted_EL + rng.normal(0, 0.25, (n, labels)), 0.01, 0.99)
    return tuple("abcdefgh"[:labels]), wanted_EL, share_EL


def targets_of(wanted_EL: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tuple(name for name, mark in zip(names, row, strict=True) if mark) for row in wanted_EL]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("labels", [1, 2, 5])
def test_metrics_of_several_labels_equal_sklearn(seed: int, labels: int) -> None:
    names, wanted_EL, share_EL = some(seed, 40, labels)
    predictions = from_shares(share_EL, names, (0.5,) * labels)
    said_EL = (share_EL >= 0.5).astype(int)
    wanted = wanted_EL.astype(int)
    met = np.flatnonzero(wanted.any(axis=0))
    expected = {
        "macro_f1": sk.f1_score(wanted[:, met], said_EL[:, met], average="macro", zero_division=0),
        "weighted_f1": sk.f1_score(wanted, said_EL, average="weighted", zero_division=0),
        "micro_f1": sk.f1_score(wanted, said_EL, average="micro", zero_division=0),
        "subset_accuracy": sk.accuracy_score(wanted, said_EL),
    }
    if labels == 1:  # sklearn takes one column for two classes
        del expected["micro_f1"], expected["weighted_f1"], expected["macro_f1"]
        expected["macro_f1"] = expected["micro_f1"] = sk.f1_score(wanted[:, 0], said_EL[:, 0], zero_division=0)
    for name, value in expected.items():
        metric = METRICS.get(name)
        rows_EK = metric.statistics(targets_of(wanted_EL, names), predictions, names)
        assert metric.aggregate(rows_EK, labels) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("name", SEVERAL)
def test_weighted_rows_of_several_labels_equal_repeated_ones(name: str) -> None:
    names, wanted_EL, share_EL = some(3, 30, 4)
    metric = METRICS.get(name)
    rows_EK = metric.statistics(targets_of(wanted_EL, names), from_shares(share_EL, names, (0.5,) * 4), names)
    weight_DC = np.random.default_rng(0).integers(0, 4, size=(5, 30)).astype(np.float64)
    repeated = [metric.aggregate(np.repeat(rows_EK, weights.astype(int), axis=0), 4) for weights in weight_DC]
    assert metric.aggregate_draws(rows_EK, weight_DC, 4) == pytest.approx(repeated)


def test_a_metric_of_one_label_is_refused_with_those_that_fit() -> None:
    with pytest.raises(ConfigError, match=r"mcc: it measures one label per text.*Choose one of macro_f1, weighted_f1"):
        check_several(METRICS.get("mcc"), several=True)
    check_several(METRICS.get("mcc"), several=False)
    check_several(METRICS.get("micro_f1"), several=True)


def test_an_evaluation_of_several_labels_tells_of_each_and_of_the_surest_mistakes() -> None:
    examples = [
        Example(id=str(i), fields={"text": "x"}, target=target)
        for i, target in enumerate([("a",), ("a", "b"), (), ("b",)])
    ]
    share_EL = np.array([[0.9, 0.2], [0.6, 0.4], [0.1, 0.95], [0.2, 0.8]])
    predictions = from_shares(share_EL, ("a", "b"), (0.5, 0.5))
    found = evaluate(
        predictions, examples, METRICS.get("macro_f1"), labels=("a", "b"), rng=np.random.default_rng(0), draws=50
    )
    a, b = found.by_label
    assert (a.wanted, a.said, a.hits, a.precision, a.recall, a.f1) == (2, 2, 2, 1.0, 1.0, 1.0)
    assert (b.wanted, b.said, b.hits, b.precision, b.recall, b.f1) == (2, 2, 1, 0.5, 0.5, 0.5)
    assert found.score.value == 0.75
    assert found.mistakes == [2, 1]  # b was 95 % sure and wrong; not b was 60 % sure and wrong
    assert found.confusion_LL.shape == (0, 0)
    assert [p.text for p in predictions] == ["a", "a", "b", "b"]


def test_no_label_is_an_answer_with_a_name() -> None:
    (answer,) = from_shares(np.array([[0.1, 0.2]]), ("a", "b"), (0.5, 0.5))
    assert (answer.labels, answer.text) == ((), "(none)")
    (again,) = judged_again([answer], (0.1, 0.15))
    assert (again.labels, again.text, again.scores) == (("a", "b"), "a | b", answer.scores)


def f1(share_N: np.ndarray, wanted_N: np.ndarray, low: float) -> float:
    said_N = share_N >= low
    return float(2 * (said_N * wanted_N).sum() / (said_N.sum() + wanted_N.sum()))


@pytest.mark.parametrize("seed", range(6))
def test_a_threshold_is_nearly_as_good_as_the_best_on_its_rows_and_better_than_a_half_on_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted_N = (rng.random(4000) < 0.1).astype(np.float64)
    # a model that hardly ever says more than one half: the best threshold lies far below
    share_N = 1 / (1 + np.exp(-(rng.normal(-3.0, 0.8, 4000) + 1.8 * wanted_N)))
    first, second = slice(0, 2000), slice(2000, None)
    (low,) = find_thresholds(share_N[first, None], wanted_N[first, None], "each")
    best = max(f1(share_N[first], wanted_N[first], cut) for cut in np.unique(share_N[first]))
    assert low < 0.4
    assert f1(share_N[first], wanted_N[first], low) > best - 0.03
    assert f1(share_N[second], wanted_N[second], low) > f1(share_N[second], wanted_N[second], 0.5) + 0.1


def test_a_threshold_follows_chance_less_than_the_best_cut_does_and_serves_other_rows_better() -> None:
    found, sharpest, gain = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wanted_N = np.tile((np.arange(300) < 40).astype(np.float64), 2)
        share_N = 1 / (1 + np.exp(-(rng.normal(-2.0, 1.0, 600) + 3.0 * wanted_N)))
        first, second = slice(0, 300), slice(300, None)
        found.append(find_thresholds(share_N[first, None], wanted_N[first, None], "each")[0])
        sharpest.append(max(share_N[first], key=lambda low: f1(share_N[first], wanted_N[first], low)))
        gain.append(
            f1(share_N[second], wanted_N[second], found[-1]) - f1(share_N[second], wanted_N[second], sharpest[-1])
        )
    assert np.std(found) < 0.85 * np.std(sharpest)
    assert np.mean(gain) > 0


def test_labels_with_few_rows_or_equal_scores_keep_one_half() -> None:
    rng = np.random.default_rng(0)
    wanted_EL = np.zeros((200, 3))
    wanted_EL[:9, 0] = wanted_EL[:50, 1] = wanted_EL[:50, 2] = 1.0
    share_EL = 0.2 * rng.random((200, 3)) + 0.2 * wanted_EL
    share_EL[:, 1] = 0.25
    low_L = find_thresholds(share_EL, wanted_EL, "each")
    assert low_L[:2] == (0.5, 0.5)
    assert low_L[2] < 0.4
    assert find_thresholds(share_EL, wanted_EL, "none") == (0.5, 0.5, 0.5)
    assert len(set(find_thresholds(share_EL, wanted_EL, "all"))) == 1
    assert threshold_note(wanted_EL, ("few", "flat", "well"), "each") == (
        "each label is given above a threshold of its own, found on 200 rows of dev; 1 of 3 have fewer than 10 rows "
        "there and keep one half: 'few'."
    )


def test_the_loss_is_that_of_each_label_at_the_best_temperature() -> None:
    names, wanted_EL, share_EL = some(1, 300, 4)
    logit_EL = np.log(share_EL / (1 - share_EL))
    at_EL = [1 / (1 + np.exp(-logit_EL / t)) for t in np.exp(np.linspace(-2.9, 2.9, 400))]
    least = min(sk.log_loss(wanted_EL.ravel(), at.ravel()) for at in at_EL)
    assert label_losses(share_EL, wanted_EL).mean() == pytest.approx(least, abs=1e-5)
    sharper = 1 / (1 + np.exp(-3 * logit_EL))
    assert label_losses(sharper, wanted_EL) == pytest.approx(label_losses(share_EL, wanted_EL), abs=1e-4)
    assert probabilities(from_shares(share_EL, names, (0.5,) * 4), names) == pytest.approx(share_EL)
    with pytest.raises(ConfigError, match="thresholds: they need the probability of each label"):
        probabilities([Prediction(text="a")], names)
