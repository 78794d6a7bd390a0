"""Words for labels are found among what the base says of each label's rows, without training and without dev."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.methods.verbalizer import found_words, read_rows
from tunewise.models.causal import Causal
from tunewise.models.load import load_base
from tunewise.models.masked import Masked
from tunewise.models.tiny import tiny_masked
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.prompted import prompt_tokens
from tunewise.prompts.prompt import Prompt
from tunewise.types import Example

GIVEN = {"bug": "crashes", "login": "my password", "price": "refund"}
TEXTS = [
    "the application crashes",
    "reset the account",
    "refund my money",
    "the report crashes",
    "my password",
    "order",
]


@pytest.fixture(scope="module", params=["bert", "roberta", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal | Masked:
    make = tiny_causal if request.param == "llama" else tiny_masked
    folder: Path = make(tmp_path_factory.mktemp("base"), architecture=request.param)
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal | Masked)
    return loaded


def asked(base: Causal | Masked) -> tuple[list[Example], np.ndarray]:
    rows = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(TEXTS)]
    return rows, np.array([0, 1, 2, 0, 1, 2])


def spaced(base: Causal | Masked) -> Callable[[Sequence[str]], list[list[int]]]:
    return lambda words: base.text_ids([f" {word}" for word in words])


def likelihood(base: Causal | Masked, words: list[str]) -> float:
    """Mean log-probability of the rows' labels, by the words' logits of the whole model, one row at a time."""
    rows, target_E = asked(base)
    ids = [base.text_ids([f" {word}"])[0][0] for word in words]
    found = []
    for row, label in zip(rows, target_E, strict=True):
        (read,) = prompt_tokens(base, Prompt(), [row], "keep_start").ids
        place = -1 if isinstance(base, Causal) else int(np.flatnonzero(read == base.mask_id)[0])
        with torch.no_grad():
            logits_V = base.whole(input_ids=torch.as_tensor(read)[None]).logits[0, place].double()
        found.append(float(torch.log_softmax(logits_V[ids], -1)[label]))
    return float(np.mean(found))


def test_the_words_that_are_found_make_the_rows_labels_likelier(base: Causal | Masked) -> None:
    rows, target_E = asked(base)
    found = found_words(base, prompt_tokens(base, Prompt(), rows, "keep_start"), target_E, GIVEN, spaced(base))
    assert list(found) == list(GIVEN)
    assert len(set(found.values())) == 3
    for word in found.values():
        (token,) = base.text_ids([f" {word}"])[0:1]
        assert len(token) == 1
        assert len(word) > 1
    assert likelihood(base, list(found.values())) > likelihood(base, ["refund", "order", "account"]) + 0.1
    # no other word in the place of one of them does better: the search ends where none does
    best = likelihood(base, list(found.values()))
    for other in ("film", "money", "report", "great", "product"):
        if other not in found.values():
            assert likelihood(base, [other, *list(found.values())[1:]]) <= best + 1e-6


def test_the_same_rows_give_the_same_words(base: Causal | Masked) -> None:
    rows, target_E = asked(base)
    tokens = prompt_tokens(base, Prompt(), rows, "keep_start")
    assert found_words(base, tokens, target_E, GIVEN, spaced(base)) == found_words(
        base, tokens, target_E, GIVEN, spaced(base)
    )


def test_a_label_without_rows_keeps_its_words(base: Causal | Masked) -> None:
    rows, _ = asked(base)
    tokens = prompt_tokens(base, Prompt(), rows, "keep_start")
    found = found_words(base, tokens, np.array([0, 2, 2, 0, 2, 2]), GIVEN, spaced(base))
    assert found["login"] == GIVEN["login"]
    assert len(set(found.values())) == 3


def test_of_each_label_as_many_rows_are_read_and_always_the_same() -> None:
    target_E = np.array([0] * 50 + [1] * 3)
    digests = [f"{(37 * i) % 101:03}" for i in range(53)]
    picked = read_rows(target_E, digests)
    assert np.bincount(target_E[picked]).tolist() == [16, 3]
    assert max(digests[i] for i in picked if i < 50) < min(digests[i] for i in range(50) if i not in picked)
    assert len(read_rows(np.arange(1000) % 400, [str(i) for i in range(1000)])) == 400
