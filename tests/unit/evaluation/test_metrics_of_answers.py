"""Metrics equal paper and scikit-learn, on whole sets and on weighted draws of them."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from tunewise.errors import ConfigError, DataError
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.base import Metric
from tunewise.types import Prediction

LABELS = ("a", "b", "c")
OF_LABELS = [name for name in METRICS if "classify" in METRICS.get(name).kinds]
LOWER_IS_BETTER = ("log_loss", "mae", "bits_per_byte", "perplexity", "unparsable")


def said(text: str) -> list[Prediction]:
    return [Prediction(text=letter) for letter in text]


def value(name: str, targets: str, answers: str, labels: tuple[str, ...] = LABELS) -> float:
    metric = METRICS.get(name)
    return metric.aggregate(metric.statistics(list(targets), said(answers), labels), len(labels))


def of_sklearn(name: str, targets: list[str], answers: list[str], labels: tuple[str, ...]) -> float:
    present = sorted(set(targets))
    return {
        "accuracy": lambda: sk.accuracy_score(targets, answers),
        "macro_f1": lambda: sk.f1_score(targets, answers, labels=present, average="macro", zero_division=0),
        "weighted_f1": lambda: sk.f1_score(targets, answers, average="weighted", zero_division=0),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(targets, answers),
        "mcc": lambda: sk.matthews_corrcoef(targets, answers),
        "cohen_kappa": lambda: sk.cohen_kappa_score(targets, answers),
        "quadratic_kappa": lambda: sk.cohen_kappa_score(targets, answers, labels=labels, weights="quadratic"),
        "micro_f1": lambda: sk.f1_score(targets, answers, average="micro"),
        "subset_accuracy": lambda: sk.accuracy_score(targets, answers),
        "exact_match": lambda: sk.accuracy_score(targets, answers),
        "mae": lambda: sk.mean_absolute_error([labels.index(t) for t in targets], [labels.index(a) for a in answers]),
    }[name]()


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_declares_what_it_is(name):
    metric = METRICS.get(name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert metric.signature.startswith(f"{name}|")
    assert metric.greater_is_better == (name not in LOWER_IS_BETTER) or not metric.ranks
    assert metric.ranks == (name != "length_ratio")
    assert metric.needs_order == (name in ("quadratic_kappa", "mae"))
    assert metric.decomposes or not metric.binary


def test_an_unknown_metric_is_answered_with_the_closest_one():
    with pytest.raises(ConfigError, match=r"metrics: there is no 'macrof1'\. Did you mean 'macro_f1'\?"):
        METRICS.get("macrof1")


@pytest.mark.parametrize("name", [n for n in OF_LABELS if n not in ("log_loss", "unparsable")])
@pytest.mark.parametrize("seed", range(12))
def test_metrics_equal_sklearn(name, seed):
    rng = np.random.default_rng(seed)
    labels = tuple("abcdefghij"[: int(rng.integers(2, 11))])
    n = int(rng.integers(5, 80))
    targets = [str(label) for label in rng.choice(labels, n)]
    answers = [t if rng.random() < 0.6 else str(rng.choice(labels)) for t in targets]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn remarks on labels that are answered and never wanted
        expected = of_sklearn(name, targets, answers, labels)
    assert value(name, "".join(targets), "".join(answers), labels) == pytest.approx(expected, abs=1e-12)


def test_log_loss_equals_sklearn():
    rng = np.random.default_rng(0)
    share_EL = rng.dirichlet(np.ones(3), 40)
    targets = [str(t) for t in rng.choice(LABELS, 40)]
    predictions = [Prediction(text="a", scores=dict(zip(LABELS, map(float, row), strict=True))) for row in share_EL]
    metric = METRICS.get("log_loss")
    expected = sk.log_loss(targets, share_EL, labels=LABELS)
    assert metric.aggregate(metric.statistics(targets, predictions, LABELS), 3) == pytest.approx(expected)


def test_macro_f1_on_paper():
    # a: 2 hits, said 3, wanted 2 -> 4/5; b: 1 hit, said 1, wanted 2 -> 2/3; c is never wanted
    assert value("macro_f1", "aabb", "aaab") == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_label_outside_the_known_ones_is_never_right():
    # z for z agrees in letters, but nobody could have chosen it
    assert value("accuracy", "abz", "abz") == pytest.approx(2 / 3)
    assert value("macro_f1", "abz", "abz") == pytest.approx((1 + 1 + 0) / 3)
    assert value("accuracy", "ab", "az") == 0.5


def test_log_loss_without_probabilities_is_refused():
    with pytest.raises(
        ConfigError, match="log_loss: it needs a probability for each label, and the predictor gave none"
    ):
        METRICS.get("log_loss").statistics(["a"], said("a"), LABELS)


def test_log_loss_of_a_ruled_out_target_is_large_and_finite():
    metric = METRICS.get("log_loss")
    ruled_out = [Prediction(text="a", scores={"a": 1.0, "b": 0.0})]
    assert metric.statistics(["b"], ruled_out, LABELS)[0, 0] == pytest.approx(12 * np.log(10))


@pytest.mark.parametrize("name", OF_LABELS)
def test_weighted_rows_equal_repeated_rows(name):
    rng = np.random.default_rng(3)
    metric = METRICS.get(name)
    scores = [dict(zip(LABELS, map(float, row), strict=True)) for row in rng.dirichlet(np.ones(3), 30)]
    predictions = [Prediction(text=max(s, key=s.__getitem__), scores=s) for s in scores]
    rows_EK = metric.statistics([str(t) for t in rng.choice(LABELS, 30)], predictions, LABELS)
    weight_DC = rng.integers(0, 4, size=(5, 30)).astype(np.float64)
    drawn_D = metric.aggregate_draws(rows_EK, weight_DC, 3)
    repeated = [metric.aggregate(np.repeat(rows_EK, weights.astype(int), axis=0), 3) for weights in weight_DC]
    assert drawn_D == pytest.approx(repeated)


@pytest.mark.parametrize(
    ("name", "expected"), [("mcc", 0.0), ("cohen_kappa", 0.0), ("quadratic_kappa", 0.0), ("macro_f1", 1.0)]
)
def test_one_label_only_has_a_declared_value(name, expected):
    assert value(name, "aaa", "aaa") == expected
    if expected == 0.0:
        assert "undefined:0" in METRICS.get(name).signature


def test_distances_follow_the_order_of_the_labels_and_not_their_names():
    order = ("bad", "so so", "good")
    answers = [Prediction(text=text) for text in ("good", "so so", "good")]

    def of(name: str, labels: tuple[str, ...]) -> float:
        metric = METRICS.get(name)
        return metric.aggregate(metric.statistics(["bad", "bad", "good"], answers, labels), 3)

    assert of("mae", order) == pytest.approx((2 + 1 + 0) / 3)
    assert of("mae", tuple(sorted(order))) == pytest.approx((1 + 2 + 0) / 3)
    # distances 4 + 1 + 0; by chance every target meets every answer: (4 + 1 + 4) * 2 / 3 for bad, (0 + 1 + 0) / 3
    assert of("quadratic_kappa", order) == pytest.approx(1 - 5 / (18 / 3 + 1 / 3))


@pytest.mark.parametrize("target", LABELS)
def test_an_answer_outside_an_ordered_scale_is_as_far_off_as_can_be(target):
    farthest = max(abs(LABELS.index(target) - rank) for rank in range(3))
    assert value("mae", target, "z") == farthest


def test_a_target_outside_an_ordered_scale_is_refused():
    with pytest.raises(DataError, match=r"mae: the target 'z' of row 1 has no place among the ordered labels"):
        value("mae", "az", "ab")
