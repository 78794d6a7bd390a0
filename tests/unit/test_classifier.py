"""The ladder as a scikit-learn classifier: on lists of strings, inside scikit-learn's own tools."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from desk import FILLER, WORDS
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from tunewise import Classifier
from tunewise.errors import DataError


def tickets(n: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    topics = [str(topic) for topic in rng.choice(list(WORDS), size=n)]
    texts = [" ".join([*rng.choice(WORDS[topic], size=3), *rng.choice(FILLER, size=2)]) for topic in topics]
    return texts, topics


@pytest.fixture
def quick(tiny_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Classifier:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Classifier(
        models=[str(tiny_base)], work=10**6, methods=["majority", "retrieval", "linear_probe"], metric="accuracy"
    )


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_mixin_order,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learns_checks_that_apply_to_text(check) -> None:
    check("Classifier", Classifier())


def test_it_learns_predicts_and_scores(quick: Classifier) -> None:
    texts, topics = tickets(90, 1)
    new, truth = tickets(30, 2)
    assert quick.fit(texts, topics) is quick
    shares = quick.predict_proba(new)
    assert list(quick.classes_) == sorted(WORDS)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(quick.predict(new), quick.classes_[shares.argmax(axis=1)])
    assert quick.score(new, truth) > 0.5
    assert quick.verdict_["chosen"]["method"] in ("retrieval", "linear_probe")


def test_labels_keep_their_type(quick: Classifier) -> None:
    texts, topics = tickets(60, 1)
    numbers = [sorted(WORDS).index(topic) * 10 for topic in topics]
    found = quick.fit(texts, numbers).predict(texts[:5])
    assert found.dtype.kind == "i"
    assert set(found) <= {0, 10, 20}


def test_a_pickle_answers_the_same_without_the_run_folder(quick: Classifier) -> None:
    texts, topics = tickets(60, 1)
    quick.fit(texts, topics)
    again = pickle.loads(pickle.dumps(quick))
    np.testing.assert_allclose(again.predict_proba(texts), quick.predict_proba(texts), atol=1e-6)


def test_it_works_in_a_pipeline_and_a_grid_search(quick: Classifier) -> None:
    texts, topics = tickets(90, 1)
    lower = FunctionTransformer(lambda rows: [row.lower() for row in rows])
    grid = GridSearchCV(make_pipeline(lower, quick), {"classifier__seed": [0, 1]}, cv=2, error_score="raise")
    grid.fit(texts, topics)
    assert grid.best_score_ > 0.4
    assert clone(grid.best_estimator_)[-1].get_params()["work"] == 10**6


def test_unfitted_it_says_so() -> None:
    with pytest.raises(NotFittedError):
        Classifier().predict(["text"])


@pytest.mark.parametrize(
    ("texts", "labels", "sentence"),
    [
        ("one text", ["a"], "X is one text; give a list of texts"),
        (["a", 3], ["x", "y"], r"X\[1\] is int; expected a text or a pair of texts"),
        (["a", "b"], ["x"], "2 texts but 1 labels"),
        (["a", "b"], ["x", "x"], "y has a single class"),
    ],
)
def test_wrong_input_is_a_sentence(texts: object, labels: list[str], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Classifier().fit(texts, labels)  # type: ignore[arg-type]
