"""What every way of answering keeps, and what each computes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tunewise.errors import BundleError
from tunewise.models.encoder import Encoder
from tunewise.predictors import KINDS
from tunewise.predictors.base import Predictor
from tunewise.predictors.constant import ConstantPredictor
from tunewise.predictors.head import HeadPredictor
from tunewise.predictors.retrieved import RetrievedPredictor
from tunewise.types import Example

LABELS = ("card", "film", "refund")
LONG = "a film of great charm and never dull " * 30


def rows(*texts: str) -> list[Example]:
    return [Example(id=str(i), fields={"text": text}) for i, text in enumerate(texts)]


def test_every_kind_in_the_registry_is_a_predictor() -> None:
    assert [KINDS.get(kind).kind for kind in KINDS] == list(KINDS)


def test_scores_cover_all_labels_and_sum_to_one(predictor) -> None:
    assert isinstance(predictor, Predictor)
    for prediction in predictor.predict(rows("the card was stolen", "", LONG)):
        assert list(prediction.scores) == list(LABELS)
        assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-9)
        assert prediction.text == max(prediction.scores, key=prediction.scores.get)


def test_an_answer_does_not_depend_on_the_others(predictor) -> None:
    texts = ["the card was stolen", "", LONG, "refund"]
    together = predictor.predict(rows(*texts))
    alone = [predictor.predict(rows(text))[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert list(one.scores.values()) == pytest.approx(list(other.scores.values()), abs=1e-5)


def test_one_text_that_is_too_long_is_answered_also_under_refuse(head: HeadPredictor) -> None:
    head.policy = "refuse"
    assert len(head.predict(rows(LONG))) == 1


def test_no_examples_no_predictions(predictor) -> None:
    assert predictor.predict([]) == []


def test_what_was_saved_answers_to_the_bit_the_same(predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    again = type(predictor).load(tmp_path, lambda name: predictor.base)
    texts = rows("the card was stolen", "never", LONG)
    if predictor.base is not None:
        # the vectors once, so that only what was saved can differ
        vector_EH = predictor.base.features([example.texts for example in texts], predictor.policy)
        again.features = predictor.features = lambda examples: vector_EH
    assert again.predict(texts) == predictor.predict(texts)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_a_missing_file_is_named(predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        raw = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=path.name):
            type(predictor).load(tmp_path, lambda name: predictor.base)
        path.write_bytes(raw)


def test_a_setting_that_is_missing_is_named(predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    path = tmp_path / f"{predictor.kind}.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "labels"}))
    with pytest.raises(BundleError, match=r"`labels` is missing or of the wrong type"):
        type(predictor).load(tmp_path, lambda name: predictor.base)


def test_constant_answers_the_share_of_each_label() -> None:
    found = ConstantPredictor(labels=("a", "b"), shares=(1, 3)).predict(rows("x", "y"))
    assert [(p.text, p.scores) for p in found] == [("b", {"a": 0.25, "b": 0.75})] * 2


def test_constant_refuses_shares_that_are_none() -> None:
    with pytest.raises(BundleError, match="a share of 0 or more for each of 2 labels"):
        ConstantPredictor(labels=("a", "b"), shares=(0.0, 0.0))


def test_head_is_the_softmax_of_a_linear_map(tiny: Encoder) -> None:
    """Logits 2 * 0.6 + 0.1 = 1.3 and -0.6 - 0.3 = -0.9, so the first has 1 / (1 + exp(-2.2))."""
    vector = np.zeros((1, 32), dtype=np.float32)
    vector[0, 0] = 0.6
    weight_LH = np.zeros((2, 32), dtype=np.float32)
    weight_LH[:, 0] = 2.0, -1.0
    head = HeadPredictor(
        base=tiny,
        labels=("a", "b"),
        policy="refuse",
        weight_LH=weight_LH,
        bias_L=np.array([0.1, -0.3]),
        features=lambda examples: vector,
    )
    assert head.predict(rows("x"))[0].scores["a"] == pytest.approx(1 / (1 + math.exp(-2.2)), abs=1e-6)
    head.unit_length = True  # 2.1 and -1.3
    assert head.predict(rows("x"))[0].scores["a"] == pytest.approx(1 / (1 + math.exp(-3.4)), abs=1e-6)


def test_head_of_other_size_is_refused(tiny: Encoder) -> None:
    with pytest.raises(BundleError, match=r"expected weights \(3, 32\).*found \(3, 16\)"):
        HeadPredictor(base=tiny, labels=LABELS, policy="refuse", weight_LH=np.zeros((3, 16)), bias_L=np.zeros(3))


def neighbours(tiny: Encoder, question: np.ndarray, **changes) -> RetrievedPredictor:
    vector_NH = np.zeros((4, 32), dtype=np.float32)
    vector_NH[:, :2] = [[1, 0], [0.8, 0.6], [0.6, 0.8], [1, 0]]
    settings = {
        "base": tiny,
        "labels": LABELS,
        "policy": "refuse",
        "vector_NH": vector_NH * 7,
        "target_N": np.array([0, 1, 2, 2]),
        "texts": ("east", "north-east", "north", "east again"),
        "neighbours": 3,
        "temperature": 0.1,
        "features": lambda examples: np.pad(question, (0, 30))[None].astype(np.float32),
    }
    return RetrievedPredictor(**{**settings, **changes})


def test_near_rows_vote_by_similarity(tiny: Encoder) -> None:
    """Cosines 1 (card), 1 (refund), 0.8 (film): votes 1, 1 and exp(-2); of equal votes the first label wins."""
    found = neighbours(tiny, np.array([3.0, 0.0])).predict(rows("x"))[0]
    total = 2 + math.exp(-2)
    expected = {"card": 1 / total, "film": math.exp(-2) / total, "refund": 1 / total}
    assert found.text == "card"
    assert found.scores == pytest.approx(expected, abs=1e-5)


def test_evidence_is_nearest_first_and_of_equals_the_earlier_row(tiny: Encoder) -> None:
    found = neighbours(tiny, np.array([3.0, 0.0])).predict(rows("x"))[0]
    assert found.evidence == ("east", "east again", "north-east")
    assert neighbours(tiny, np.array([1.0, 0.0]), neighbours=1).predict(rows("x"))[0].evidence == ("east",)


def test_a_stored_text_is_its_own_nearest_neighbour(retrieved: RetrievedPredictor) -> None:
    assert [p.evidence[0] for p in retrieved.predict(rows(*retrieved.texts))] == list(retrieved.texts)


def test_neighbours_are_the_same_in_blocks(retrieved: RetrievedPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    vector_EH = retrieved.base.features([("card",), ("film",), ("refund",)], "refuse")
    retrieved.features = lambda examples: vector_EH
    whole = retrieved.predict(rows("card", "film", "refund"))
    monkeypatch.setattr("tunewise.predictors.nearest.BLOCK_CELLS", 1)
    assert retrieved.predict(rows("card", "film", "refund")) == whole


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"neighbours": 5}, "5 neighbours of 4 rows"),
        ({"temperature": 0.0}, "at temperature 0.0"),
        ({"target_N": np.array([0, 1, 2, 3])}, "outside the 3 labels"),
        ({"texts": ("a",)}, "a target for each of 1 texts"),
    ],
)
def test_retrieved_refuses_what_does_not_fit(tiny: Encoder, changes, sentence) -> None:
    with pytest.raises(BundleError, match=sentence):
        neighbours(tiny, np.array([1.0, 0.0]), **changes)
