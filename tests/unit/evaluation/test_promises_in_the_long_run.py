"""Simulated again and again, intervals cover what they promise and choices err no more often than they say.

Domain: accuracy 0.6 to 0.97 on 50 to 2,000 rows; macro-F1 with 3 to 10 labels (evenly or 5 : 1 spread, accuracy 0.7 to
0.95) on 200 to 2,000 rows; choices among 2 to 6 candidates on 600 or more rows.
"""

import numpy as np
import pytest
from scipy.stats import binom

from tunewise.evaluation.choice import Contender, choose
from tunewise.evaluation.intervals import interval, wilson
from tunewise.evaluation.metrics import METRICS


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8, 0.9, 0.95, 0.97])
@pytest.mark.parametrize("n", [50, 100, 200, 500, 1000, 2000])
def test_accuracy_intervals_cover_exactly(n, share):
    covered = [k for k in range(n + 1) if wilson(k, n, 0.95)[0] <= share <= wilson(k, n, 0.95)[1]]
    coverage = float(binom.pmf(covered, n, share).sum())
    # at 50 rows a share of 0.9 is covered by 97.03 %: counts are whole, and one more or less is a jump
    assert 0.93 <= coverage <= (0.971 if n == 50 else 0.97)


def population(n_labels: int, right: float, spread: float) -> np.ndarray:
    """Probability of each pair of target and prediction; the most frequent label is `spread` times the rarest."""
    rng = np.random.default_rng(n_labels)
    share_L = spread ** -np.linspace(0, 1, n_labels)
    pairs_LL = np.zeros((n_labels, n_labels))
    for i in range(n_labels):
        recall = right + rng.uniform(-0.5, 0.5) * (1 - right)
        pairs_LL[i] = np.insert(rng.dirichlet(np.ones(n_labels - 1)) * (1 - recall), i, recall)
    return pairs_LL * (share_L / share_L.sum())[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 5.0])
@pytest.mark.parametrize("n_labels", [3, 5, 10])
@pytest.mark.parametrize("n", [200, 500, 2000])
def test_macro_f1_intervals_cover(n, n_labels, spread):
    metric, rng = METRICS.get("macro_f1"), np.random.default_rng(n + n_labels)
    pair_CK = np.array([[i, j] for i in range(n_labels) for j in range(n_labels)], dtype=np.float64)
    covered = []
    for right in (0.7, 0.85, 0.95):
        pairs_LL = population(n_labels, right, spread)
        truth = float(np.mean(2 * np.diag(pairs_LL) / (pairs_LL.sum(axis=0) + pairs_LL.sum(axis=1))))
        for _ in range(500):
            rows_EK = np.repeat(pair_CK, rng.multinomial(n, pairs_LL.ravel()), axis=0)
            score = interval(metric, rows_EK, n_labels=n_labels, rng=rng, draws=1000)
            covered.append(score.low <= truth <= score.high)
    coverage = float(np.mean(covered))
    print(f"n={n} labels={n_labels} spread={spread}: {coverage:.3f}")  # noqa: T201
    assert 0.93 <= coverage <= 0.97


def correlated_hits(shares: list[float], n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Candidates with these accuracies that find the same rows hard, more or less."""
    hard_E = rng.random(n)
    own = [np.where(rng.random(n) < 0.7, hard_E, rng.random(n)) for _ in shares]
    return [(own_E < share).astype(np.float64)[:, None] for share, own_E in zip(shares, own, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheap", "best", "n"),
    [
        ([0.8699], 0.9, 1000),
        ([0.8699] * 5, 0.9, 1000),
        ([0.7699] * 3, 0.8, 2000),
        ([0.9399] * 5, 0.97, 600),
        ([0.5699] * 3, 0.6, 3000),
    ],
)
def test_a_resolved_choice_is_rarely_worse_than_the_margin(cheap, best, n):
    """All cheaper ones are worse by a hair more than the margin of 3 points: the hardest case there is."""
    rng, metric, runs = np.random.default_rng(n), METRICS.get("accuracy"), 1000
    wrong = resolved = 0
    for _ in range(runs):
        hits = correlated_hits([*cheap, best], n, rng)
        contenders = [Contender(f"rung {i}", (i,), hit_EK) for i, hit_EK in enumerate(hits)]
        choice = choose(contenders, metric, n_labels=2, margin=0.03, rng=rng, draws=1000)
        resolved += choice.resolved
        wrong += choice.resolved and choice.index < len(cheap)
    print(f"{len(cheap)} at {cheap[0]}, best {best}, n={n}: resolved {resolved / runs:.3f}, wrong {wrong / runs:.3f}")  # noqa: T201
    # 5 % promised, plus twice the simulation's own error of 0.7 %
    assert wrong / runs <= 0.064
    assert resolved / runs > 0.9
