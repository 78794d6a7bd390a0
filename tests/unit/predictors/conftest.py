"""Small predictors on the tiny base."""

from pathlib import Path

import numpy as np
import pytest

from tunewise.models.encoder import Encoder
from tunewise.predictors.bundle import save_bundle
from tunewise.predictors.constant import ConstantPredictor
from tunewise.predictors.head import HeadPredictor
from tunewise.predictors.retrieved import RetrievedPredictor
from tunewise.types import Example

LABELS = ("card", "film", "refund")
TEXTS = ("the card was stolen", "a film of great charm", "refund the money", "never dull", "cancel my order")


def rows(*texts: str) -> list[Example]:
    return [Example(id=str(i), fields={"text": text}) for i, text in enumerate(texts)]


@pytest.fixture
def constant() -> ConstantPredictor:
    return ConstantPredictor(labels=LABELS, shares=(0.25, 0.5, 0.25))


@pytest.fixture
def head(tiny: Encoder) -> HeadPredictor:
    rng = np.random.default_rng(0)
    return HeadPredictor(
        base=tiny,
        labels=LABELS,
        policy="chunk_and_pool",
        weight_LH=rng.normal(size=(3, 32)).astype(np.float32),
        bias_L=np.array([0.1, 0.0, -0.1], dtype=np.float32),
    )


@pytest.fixture
def retrieved(tiny: Encoder) -> RetrievedPredictor:
    return RetrievedPredictor(
        base=tiny,
        labels=LABELS,
        policy="keep_start",
        vector_NH=tiny.features([(text,) for text in TEXTS], "refuse"),
        target_N=np.array([0, 1, 2, 1, 2]),
        texts=TEXTS,
        neighbours=3,
        temperature=0.1,
    )


@pytest.fixture(params=["constant", "head", "retrieved"])
def predictor(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bundle(predictor, tmp_path: Path) -> Path:
    """A saved bundle of each kind."""
    save_bundle(
        predictor,
        tmp_path / "bundle",
        task_name="tickets",
        kind="classify",
        columns=("text",),
        policy="keep_start",
        probes=rows(*TEXTS),
        card="# Tickets\n",
        extra={"metric": "accuracy"},
    )
    return tmp_path / "bundle"
