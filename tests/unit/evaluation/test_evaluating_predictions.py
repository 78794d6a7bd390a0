"""An evaluation holds the score, each slice, the confusions and the worst mistakes."""

import numpy as np
import pytest

from tunewise.errors import DataError
from tunewise.evaluation.evaluate import evaluate
from tunewise.evaluation.metrics import METRICS
from tunewise.types import Example, Prediction

LABELS = ("no", "yes")


def example(i: int, target: str | None, *, region: str | None = None, cluster: str | None = None) -> Example:
    slices = {} if region is None else {"region": region}
    return Example(id=f"row-{i}", fields={"text": str(i)}, target=target, slices=slices, cluster=cluster)


def sure(text: str, share: float | None = None) -> Prediction:
    if share is None:
        return Prediction(text=text)
    other = "no" if text == "yes" else "yes"
    return Prediction(text=text, scores={text: share, other: 1 - share})


def evaluated(answers, examples, name="accuracy", labels=LABELS):
    return evaluate(answers, examples, METRICS.get(name), labels=labels, rng=np.random.default_rng(0), draws=100)


def test_score_confusions_and_slices():
    rows = [("yes", "eu"), ("yes", "us"), ("no", "us"), ("no", None)]
    examples = [example(i, target, region=region) for i, (target, region) in enumerate(rows)]
    result = evaluated([sure("yes"), sure("no"), sure("no"), sure("no")], examples)
    assert (result.score.value, result.score.n) == (0.75, 4)
    assert result.confusion_LL.tolist() == [[2, 0], [1, 1]]
    assert [(s.column, s.value, s.score.value, s.score.n) for s in result.slices] == [
        ("region", "eu", 1.0, 1),
        ("region", "us", 0.5, 2),
    ]


def test_mistakes_come_with_the_most_confident_first():
    examples = [example(i, "yes") for i in range(5)]
    answers = [sure("no", 0.6), sure("yes", 0.9), sure("no"), sure("no", 0.95), sure("no", 0.7)]
    assert evaluated(answers, examples).mistakes == [3, 4, 0, 2]


def test_answers_outside_the_labels_are_counted_as_wrong():
    result = evaluated([sure("maybe"), sure("yes")], [example(0, "yes"), example(1, "yes")])
    assert (result.score.value, result.outside, result.confusion_LL.sum()) == (0.5, 1, 1)


def test_named_clusters_are_resampled_together():
    examples = [example(i, "yes" if i % 3 else "no", cluster=str(i // 2)) for i in range(60)]
    result = evaluated([sure("yes")] * 60, examples)
    assert result.score.method == "bca bootstrap over clusters"


def test_same_generator_same_evaluation():
    examples = [example(i, "yes" if i % 3 else "no", region=str(i % 2)) for i in range(60)]
    answers = [sure("yes" if i % 4 else "no", 0.8) for i in range(60)]
    first, second = evaluated(answers, examples, "macro_f1"), evaluated(answers, examples, "macro_f1")
    assert (first.score, first.slices) == (second.score, second.slices)


def test_an_example_without_a_target_is_refused():
    with pytest.raises(DataError, match="row 'row-1' has no target, so its answer cannot be scored"):
        evaluated([sure("yes")] * 2, [example(0, "yes"), example(1, None)])


def test_missing_predictions_are_refused():
    with pytest.raises(DataError, match="every example needs one prediction, got 1 for 2 examples"):
        evaluated([sure("yes")], [example(0, "yes"), example(1, "no")])


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match="at least one row with a target"):
        evaluated([], [])
