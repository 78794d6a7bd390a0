"""A small task that every rung can climb, on a tiny base of each architecture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods.base import Context, Fold
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder, tiny_masked
from tunewise.models.tiny_causal import ARCHITECTURES as CAUSAL
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import ARCHITECTURES as SEQ2SEQ
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.types import Example

HEADLESS = "bert without a head for masked words"
WORDS = {
    "billing": ["invoice", "charge", "payment", "price", "card"],
    "login": ["password", "account", "sign", "locked", "code"],
    "crash": ["error", "screen", "freeze", "app", "bug"],
}
LABELS = tuple(sorted(WORDS))


def make_rows(n: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = LABELS[i % len(LABELS)]
        words = [
            *rng.choice(WORDS[label], size=2),
            *rng.choice(["the", "my", "please", "help", "now"], size=rng.integers(1, 9)),
        ]
        rows.append(
            Example(id=f"{seed}-{i}", fields={"text": " ".join(map(str, rng.permutation(words)))}, target=label)
        )
    return rows


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("contract") / architecture
            if architecture == HEADLESS:
                made[architecture] = tiny_encoder(folder)
            else:
                makes = {**dict.fromkeys(CAUSAL, tiny_causal), **dict.fromkeys(SEQ2SEQ, tiny_seq2seq)}
                make = makes.get(architecture, tiny_masked)
                made[architecture] = make(folder, architecture=architecture)
        return made[architecture]

    return base


@pytest.fixture
def context_for(bases: Callable[[str], Path]) -> Callable[[str], Context]:
    def context(architecture: str) -> Context:
        path = str(bases(architecture))
        base = load_base(path, device="cpu", dtype="float32")
        task = Task(
            name="contract",
            data=DataConfig(train="in-memory.csv"),
            models=(path,),
            dtype="float32",
            budget=Budget(work=10**9),
            truncation="keep_start",
        )
        train, race = make_rows(36, 1), make_rows(18, 2)
        return Context(
            task=task,
            labels=LABELS,
            base=base,
            folds=(Fold(train=tuple(train), race=tuple(race)),),
            features=FeatureStore(base, "keep_start", (*train, *race), None),
            work=10**9,
            seed=3,
            train_tokens=base.encode([e.texts for e in train], "keep_start").tokens,
            race_tokens=base.encode([e.texts for e in race], "keep_start").tokens,
            seconds_per_work=1e-4,
        )

    return context
