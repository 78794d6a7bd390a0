"""An interval contains its value, narrows with more rows, keeps clusters together and says when not to trust it."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.errors import DataError
from tunewise.evaluation.intervals import interval, wilson
from tunewise.evaluation.metrics import METRICS

COUNTS = ["macro_f1", "balanced_accuracy", "weighted_f1", "mcc", "cohen_kappa"]


def pairs(seed: int, n: int, n_labels: int, share_right: float = 0.8) -> np.ndarray:
    """Index of target and prediction, [n, 2]."""
    rng = np.random.default_rng(seed)
    target_E = rng.integers(0, n_labels, n)
    predicted_E = np.where(rng.random(n) < share_right, target_E, rng.integers(0, n_labels, n))
    return np.stack([target_E, predicted_E], axis=1).astype(np.float64)


def hits(right: int, n: int) -> np.ndarray:
    return (np.arange(n) < right).astype(np.float64)[:, None]


def of(name, rows_EK, n_labels=4, **more):
    more = {"rng": np.random.default_rng(0), "draws": 300} | more
    return interval(METRICS.get(name), rows_EK, n_labels=n_labels, **more)


def test_wilson_on_paper():
    # 8 of 10, z = 1.959964: middle (0.8 + z2/20) / (1 + z2/10), half z sqrt(0.016 + z2/400) / (1 + z2/10)
    low, high = wilson(8, 10, 0.95)
    assert (low, high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_shares_get_wilson_and_whole_set_metrics_get_bca():
    assert of("accuracy", hits(80, 100)).method == "wilson"
    assert of("macro_f1", pairs(0, 100, 4)).method == "bca bootstrap over examples"
    assert of("accuracy", hits(80, 100), clusters=[str(i // 2) for i in range(100)]).method == (
        "bca bootstrap over clusters"
    )
    assert of("accuracy", hits(80, 100), clusters=[None] * 100).method == "wilson"


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["accuracy", *COUNTS]),
    seed=st.integers(0, 999),
    n=st.integers(1, 60),
    n_labels=st.integers(1, 6),
    right=st.floats(0, 1),
    in_clusters=st.booleans(),
)
def test_the_interval_contains_the_value(name, seed, n, n_labels, right, in_clusters):
    rows_EK = pairs(seed, n, n_labels, right)
    rows_EK = (rows_EK[:, :1] == rows_EK[:, 1:]).astype(float) if name == "accuracy" else rows_EK
    clusters = [f"c{i % 7}" if i % 3 else None for i in range(n)] if in_clusters else None
    score = of(name, rows_EK, n_labels, clusters=clusters, draws=50)
    assert score.low <= score.value <= score.high
    assert score.n == n


@pytest.mark.parametrize("name", COUNTS)
def test_the_order_of_examples_does_not_matter(name):
    rows_EK = pairs(1, 150, 4)
    shuffled = np.random.default_rng(9).permutation(rows_EK)
    assert of(name, rows_EK) == of(name, shuffled)


def test_same_generator_same_interval():
    rows_EK = pairs(1, 150, 4)
    assert of("mcc", rows_EK) == of("mcc", rows_EK)
    assert of("mcc", rows_EK) != of("mcc", rows_EK, rng=np.random.default_rng(1))


def test_bca_of_a_mean_agrees_with_scipy():
    from scipy.stats import bootstrap

    loss_E = np.random.default_rng(4).exponential(size=120)
    theirs = bootstrap(
        (loss_E,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = of("log_loss", loss_E[:, None], draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bca_of_macro_f1_agrees_with_scipy():
    from scipy.stats import bootstrap

    rows_EK = pairs(5, 150, 3)
    metric = METRICS.get("macro_f1")
    theirs = bootstrap(
        tuple(rows_EK.T),
        lambda t, p: metric.aggregate(np.stack([t, p], axis=1), 3),
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = of("macro_f1", rows_EK, 3, draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def spread_of(row_CK, weight_DC):
    """Variance with n below, which is biased and skewed: all of BCa is needed."""
    mean_D = weight_DC @ row_CK[:, 0] / weight_DC.sum(axis=1)
    return weight_DC @ row_CK[:, 0] ** 2 / weight_DC.sum(axis=1) - mean_D**2


def test_bca_of_a_variance_agrees_with_scipy():
    from scipy.stats import bootstrap

    from tunewise.evaluation.intervals import bca
    from tunewise.evaluation.resample import units

    size_E = np.random.default_rng(4).exponential(size=25)
    theirs = bootstrap(
        (size_E,), np.var, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bca(units(size_E[:, None]), spread_of, 0.95, np.random.default_rng(0), 40_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)


@pytest.mark.parametrize("other", [1.5, 2.0, 3.0])
def test_p_is_the_level_at_which_the_interval_touches_zero(other):
    from tunewise.evaluation.intervals import bca
    from tunewise.evaluation.resample import units

    size_E = np.random.default_rng(4).exponential(size=25)[:, None]

    def above(row_CK, weight_DC):
        return spread_of(row_CK, weight_DC) - other

    p = bca(units(size_E), above, 0.95, np.random.default_rng(0), 20_000).p_two_sided()
    at_p = bca(units(size_E), above, 1 - p, np.random.default_rng(0), 20_000)
    assert 0.01 < p < 0.8
    assert min(abs(at_p.low), abs(at_p.high)) < 0.01


@pytest.mark.parametrize("copies", [1, 2, 6])
def test_each_distinct_row_is_drawn_as_often_as_it_occurs(copies):
    from tunewise.evaluation.resample import units

    # the first value occurs `copies` times, the others once: both ways of drawing are met
    value_E = np.concatenate([np.zeros(copies), np.arange(1, 6)])[:, None]
    drawn = units(value_E)
    weight_DC = drawn.draws(lambda row_CK, weight_DC: weight_DC, np.random.default_rng(0), 4000)
    assert (weight_DC.sum(axis=1) == len(value_E)).all()
    assert weight_DC.mean(axis=0) == pytest.approx([copies, 1, 1, 1, 1, 1], abs=0.1)


def test_grouped_jackknife_has_the_acceleration_of_the_full_one(monkeypatch):
    from tunewise.evaluation import resample
    from tunewise.evaluation.intervals import bca

    loss_E = np.random.default_rng(4).exponential(size=1600)[:, None]
    metric = METRICS.get("log_loss")

    def acceleration(sets: int) -> float:
        monkeypatch.setattr(resample, "JACKKNIFE_SETS", sets)
        rng = np.random.default_rng(0)
        return bca(resample.units(loss_E), lambda r, w: metric.aggregate_draws(r, w, 1), 0.95, rng, 50).acceleration

    # on paper: skewness of an exponential is 2, so 2 / (6 sqrt(1600)) = 0.0083, and its sample value is near
    assert acceleration(1600) == pytest.approx(2 / 240, abs=0.002)
    assert acceleration(200) == pytest.approx(acceleration(1600), abs=0.003)


def test_rows_that_repeat_within_clusters_widen_the_interval():
    once = pairs(2, 100, 3)
    copied = np.repeat(once, 4, axis=0)
    clusters = [str(i // 4) for i in range(400)]
    honest, naive = of("macro_f1", copied, 3, clusters=clusters, draws=1000), of("macro_f1", copied, 3, draws=1000)
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(2.0, rel=0.15)


def test_wider_level_wider_interval():
    rows_EK = pairs(2, 200, 3)
    narrow, wide = of("macro_f1", rows_EK, 3, level=0.8), of("macro_f1", rows_EK, 3, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("name", "rows_EK", "n_labels", "sentence"),
    [
        ("accuracy", hits(157, 160), 2, "only 3 of 160 answers are wrong, too few for the interval to be exact"),
        ("accuracy", hits(1, 160), 2, "only 1 of 160 answers is right, too few for the interval to be exact"),
        ("accuracy", hits(50, 50), 2, "none of 50 answers is wrong; up to 5.8 % of new answers may still be"),
        ("macro_f1", np.array([[0, 0]] * 40 + [[0, 1]] * 9 + [[1, 1]] * 4), 3,
         "1 of 3 labels have fewer than 5 rows here; 1 of 3 labels do not occur here and are left out of the mean"),
    ],
)  # fmt: skip
def test_small_samples_say_so(name, rows_EK, n_labels, sentence):
    assert of(name, rows_EK.astype(np.float64), n_labels).caution == sentence


def test_few_clusters_say_so():
    score = of("accuracy", hits(80, 100), clusters=[str(i % 8) for i in range(100)])
    assert score.caution == "only 8 clusters; with fewer than 20 the interval is too narrow"


def test_enough_rows_need_no_caution():
    assert of("accuracy", hits(5, 10)).caution is None
    assert of("accuracy", hits(80, 100)).caution is None
    assert of("macro_f1", pairs(0, 200, 4)).caution is None


def test_nothing_to_score_is_refused():
    with pytest.raises(DataError, match="a score needs at least one row with a target, and this set has none"):
        of("macro_f1", np.empty((0, 2)))


@pytest.mark.parametrize(("n", "seconds"), [(160, 0.3), (3080, 2.0)])
def test_two_thousand_draws_are_quick(n, seconds):
    rows_EK = pairs(0, n, 77, 0.9)
    of("macro_f1", rows_EK, 77)
    start = time.perf_counter()
    of("macro_f1", rows_EK, 77, draws=2000)
    assert time.perf_counter() - start < seconds
