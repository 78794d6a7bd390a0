"""Text to tokens to vectors: the same answer whatever stands beside a row."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.errors import DataError, ModelError
from tunewise.models.encoder import Encoder, Tokens, collate
from tunewise.models.load import load_base
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder

LONG = "a film of great charm and never dull " * 30
ROWS = [("my card was stolen",), ("",), (LONG,), ("refund", LONG), (LONG, "refund"), ("the worst product 🙂", "pay")]
POLICIES = ("keep_start", "keep_end", "chunk_and_pool")


@pytest.fixture(scope="session", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Encoder:
    folder = tiny_encoder(tmp_path_factory.mktemp("architectures") / request.param, architecture=request.param)
    return load_base(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_has_the_same_vector_alone_and_in_company(base: Encoder, policy) -> None:
    together = base.features(ROWS, policy)
    alone = np.concatenate([base.features([row], policy) for row in ROWS])
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(base.features(ROWS[::-1], policy)[::-1], together, atol=1e-5)


def test_different_texts_have_different_vectors(base: Encoder) -> None:
    one, two = base.features([("my card was stolen",), ("the worst product",)], "refuse")
    assert np.abs(one - two).max() > 0.01


def test_the_two_texts_of_a_pair_are_told_apart(base: Encoder) -> None:
    vectors = base.features([("card", "refund"), ("refund", "card"), ("card refund",)], "refuse")
    assert min(np.abs(vectors[i] - vectors[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_no_sequence_is_longer_than_the_base_reads(base: Encoder, policy) -> None:
    tokens = base.encode(ROWS, policy)
    assert base.info.max_tokens == 64
    assert tokens.lengths_S.max() <= 64
    assert sorted(set(tokens.row_S.tolist())) == list(range(len(ROWS)))


def test_the_longest_sequence_can_be_read(base: Encoder) -> None:
    assert base.encode([(LONG,)], "keep_start").lengths_S.tolist() == [64]
    assert np.isfinite(base.features([(LONG,)], "keep_start")).all()


def test_tokens_are_those_of_the_tokenizer_itself(base: Encoder) -> None:
    ours = base.encode([("my card was stolen", "refund the money")], "refuse")
    theirs = base.tokenizer("my card was stolen", "refund the money")
    assert ours.ids[0].tolist() == theirs["input_ids"]
    if ours.types is not None:
        assert ours.types[0].tolist() == theirs["token_type_ids"]


def test_vectors_are_those_of_transformers_itself(base: Encoder) -> None:
    inputs = base.tokenizer(["my card was stolen", "pay"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden_STH = base.model(**inputs).last_hidden_state
    mask_ST1 = inputs["attention_mask"][:, :, None]
    mean_SH = (hidden_STH * mask_ST1).sum(1) / mask_ST1.sum(1)
    ours = base.features([("my card was stolen",), ("pay",)], "refuse")
    np.testing.assert_allclose(ours, mean_SH.numpy(), atol=1e-5)


def test_a_gradient_reaches_the_weights(base: Encoder) -> None:
    batch = collate(base.encode(ROWS[:2], "refuse"), [0, 1], pad_id=base.pad_id, device=base.device)
    weight = next(parameter for name, parameter in base.model.named_parameters() if name.endswith("weight"))
    weight.requires_grad_(True)
    try:
        base.pool(base.forward(batch), batch)[:, 0].sum().backward()  # all of them sum to a constant
        assert weight.grad is not None
        assert weight.grad.abs().max() > 1e-3
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_pooling_a_batch_gives_the_features(tiny: Encoder) -> None:
    tokens = tiny.encode(ROWS, "chunk_and_pool")
    batch = collate(tokens, range(len(ROWS)), pad_id=tiny.pad_id, device=tiny.device, multiple=8)
    with torch.no_grad():
        vector_RH = tiny.pool(tiny.forward(batch), batch)
    assert batch.input_ids_ST.shape[1] % 8 == 0
    np.testing.assert_allclose(vector_RH.numpy(), tiny.features(ROWS, "chunk_and_pool"), atol=1e-5)


def test_chunks_weigh_as_many_tokens_as_they_have(tiny: Encoder) -> None:
    """(2 [1, 1] + 6 [3, 5]) / 8 = [2.5, 4]."""
    ids = [np.zeros(2, dtype=np.int64), np.zeros(6, dtype=np.int64)]
    tokens = Tokens(ids=ids, types=None, row_S=np.array([0, 0]), rows=1)
    batch = collate(tokens, [0], pad_id=0, device=torch.device("cpu"))
    hidden_STH = torch.tensor([1.0, 1.0]).expand(2, 6, 2).clone()
    hidden_STH[1] = torch.tensor([3.0, 5.0])
    hidden_STH[0, 2:] = 1e6  # padding has no say
    assert tiny.pool(hidden_STH, batch).tolist() == [[2.5, 4.0]]


@pytest.mark.parametrize(("pooling", "expected"), [("mean", 2.0), ("cls", 1.0), ("last", 3.0), ("max", 3.0)])
def test_each_pooling_reads_what_its_name_says(tiny: Encoder, pooling, expected) -> None:
    other = Encoder(dataclasses.replace(tiny.info, pooling=pooling), tiny.model, tiny.tokenizer)
    tokens = Tokens(ids=[np.zeros(3, np.int64), np.zeros(5, np.int64)], types=None, row_S=np.array([0, 1]), rows=2)
    batch = collate(tokens, [0, 1], pad_id=0, device=torch.device("cpu"))
    hidden_STH = torch.tensor([1.0, 2.0, 3.0, 1e6, 1e6])[None, :, None].expand(2, 5, 1)
    assert other.pool(hidden_STH, batch)[0].item() == expected


def test_equal_rows_are_computed_once(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    pool = tiny.pool_sequences
    monkeypatch.setattr(tiny, "pool_sequences", lambda h, batch: (seen.append(len(batch.row_S)), pool(h, batch))[1])
    vectors = tiny.features([("pay",), ("card",), ("pay",), ("pay",)], "refuse")
    assert sum(seen) == 2
    assert (vectors[0] == vectors[2]).all()
    assert not (vectors[0] == vectors[1]).all()


def test_refuse_counts_all_rows_also_equal_ones(tiny: Encoder) -> None:
    rows = [("pay",)] * 197 + [(LONG,)] * 3
    with pytest.raises(DataError, match=r"train: 3 of 200 rows \(1\.5%\)"):
        tiny.features(rows, "refuse", name="train")
    tokens = tiny.encode([("pay",)] * 199 + [(LONG,)], "refuse")
    assert (tokens.cut_rows, tokens.cut_tokens) == (1, tiny.token_counts([(LONG,)])[0] - 64)


def test_chunks_lose_nothing(tiny: Encoder) -> None:
    tokens = tiny.encode([(LONG,)], "chunk_and_pool")
    specials = 2 * len(tokens.ids)
    assert tokens.cut_rows == 0
    assert tokens.tokens - specials == tiny.token_counts([(LONG,)])[0] - 2


def test_tokens_of_rows_keeps_all_their_sequences(tiny: Encoder) -> None:
    tokens = tiny.encode(ROWS, "chunk_and_pool")
    part = tokens.of_rows([2, 0])
    assert part.row_S.tolist() == [0] * len(tokens.sequences(2)) + [1]
    assert part.tokens == int(tokens.lengths_R[2] + tokens.lengths_R[0])


def test_settings_that_others_left_in_the_tokenizer_change_nothing(tiny: Encoder) -> None:
    before = tiny.encode(ROWS, "chunk_and_pool").lengths_S.tolist()
    tiny.tokenizer(["pay"], truncation=True, max_length=3, padding="max_length")
    assert tiny.encode(ROWS, "chunk_and_pool").lengths_S.tolist() == before


def test_a_lone_surrogate_is_read_as_the_replacement_character(tiny: Encoder) -> None:
    assert (
        tiny.encode([("pay \ud83d",)], "refuse").ids[0].tolist() == tiny.encode([("pay �",)], "refuse").ids[0].tolist()
    )


def test_no_rows_have_no_vectors(tiny: Encoder) -> None:
    assert tiny.features([], "refuse").shape == (0, 32)
    assert tiny.encode([], "refuse").tokens == 0


def test_three_texts_are_refused(tiny: Encoder) -> None:
    with pytest.raises(ModelError, match="a row has one text or two, got 3"):
        tiny.encode([("a", "b", "c")], "refuse")


def test_the_bundled_base_gives_the_vectors_of_a_sentence_encoder(one_thread: None) -> None:
    base = load_base("bundled:minilm", device="cpu", dtype="float32")
    cat, kitten, stocks = base.features([("A cat",), ("A kitten",), ("stock markets",)], "refuse")
    assert (base.info.hidden_size, base.info.max_tokens, base.info.english_only) == (384, 256, True)
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert cat @ kitten > 0.6 > 0.2 > cat @ stocks


def test_tiny_says_what_it_is(tiny: Encoder, tiny_base: Path) -> None:
    info = tiny.info
    assert (info.name, info.family, info.architecture) == (str(tiny_base), "masked", "bert")
    assert info.parameters == sum(weight.numel() for weight in tiny.model.parameters())
    assert not any(weight.requires_grad for weight in tiny.model.parameters())
