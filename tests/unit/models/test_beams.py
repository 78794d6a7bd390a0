"""Beam search: the answers of transformers' own, whatever else is written beside them."""

import numpy as np
import pytest
import torch

from tunewise.errors import ConfigError
from tunewise.models.answers import writer_of
from tunewise.models.asked import Asked
from tunewise.models.causal import Causal
from tunewise.models.generate import Decoding, causal_writer
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import tiny_seq2seq

ARCHITECTURES = ("llama", "gpt2")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    folder = tiny_causal(tmp_path_factory.mktemp("causal") / request.param, architecture=request.param)
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("llama"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def prompts(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.concatenate([[0], rng.integers(4, 400, 2 + 5 * i)]) for i in range(count)]


def own(base: Asked, prompt: np.ndarray, beams: int, tokens: int) -> list[int]:
    ids = torch.as_tensor(prompt)[None]
    with torch.no_grad():
        whole = base.whole.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            num_beams=beams,
            do_sample=False,
            length_penalty=1.0,
            early_stopping=True,
            pad_token_id=base.pad_id,
            eos_token_id=list(base.end_ids),
        )[0].tolist()
    said = whole if base.info.family == "seq2seq" else whole[len(prompt) :]
    found = []
    for token in said[1 if base.info.family == "seq2seq" else 0 :]:
        if token in base.end_ids or (base.info.family == "seq2seq" and token == base.pad_id):
            break
        found.append(token)
    return found


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("early", [False, True])
def test_beam_search_finds_what_transformers_finds_one_by_one(base: Causal, beams: int, early: bool) -> None:
    before = base.end_ids
    try:
        if early:  # what the base likes to say ends answers, so that some end soon
            free = causal_writer(base).write(prompts(5), Decoding(max_new_tokens=9, beams=beams))
            base.end_ids = (*before, *{row.ids[5] for row in free if len(row.ids) > 5})
        written = causal_writer(base).write(prompts(5), Decoding(max_new_tokens=9, beams=beams))
        for prompt, answer in zip(prompts(5), written, strict=True):
            assert list(answer.ids) == own(base, prompt, beams, 9)
        assert any(answer.ended and len(answer.ids) < 9 for answer in written) or not early
    finally:
        base.end_ids = before


def test_an_answer_by_beams_does_not_depend_on_the_others(llama: Causal) -> None:
    together = causal_writer(llama).write(prompts(6), Decoding(max_new_tokens=7, beams=3))
    alone = [causal_writer(llama).write([each], Decoding(max_new_tokens=7, beams=3))[0] for each in prompts(6)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_encoder_decoders_search_by_beams_too(tmp_path) -> None:
    base = load_base(str(tiny_seq2seq(tmp_path)), device="cpu", dtype="float32")
    assert isinstance(base, Asked)
    asked = base.prompt_ids(["the card was stolen", "never dull", "a film of great charm"])
    written = writer_of(base).write(asked, Decoding(max_new_tokens=6, beams=3))
    for prompt, answer in zip(asked, written, strict=True):
        assert list(answer.ids) == own(base, prompt, 3, 6)


def test_more_beams_find_likelier_answers_by_token(llama: Causal) -> None:
    def by_token(beams: int) -> list[float]:
        rows = causal_writer(llama).write(prompts(6), Decoding(max_new_tokens=6, beams=beams))
        return [row.log_probability / (len(row.ids) + row.ended) for row in rows]

    one, many = by_token(1), by_token(16)
    assert all(b >= a - 1e-5 for a, b in zip(one, many, strict=True))
    assert any(b > a + 1e-3 for a, b in zip(one, many, strict=True))


def test_a_stop_ends_a_beam(llama: Causal) -> None:
    (free,) = causal_writer(llama).write(prompts(1), Decoding(max_new_tokens=8, beams=2))
    stop = llama.tokenizer.decode(free.ids)[3]
    (held,) = causal_writer(llama).write(prompts(1), Decoding(max_new_tokens=8, beams=2, stop=(stop,)))
    assert stop not in held.text
    assert held.ended


@pytest.mark.parametrize("setting", [{"beams": 0}, {"beams": 2, "temperature": 0.5}])
def test_beams_are_counted_from_one_and_nothing_is_drawn_among_them(setting) -> None:
    with pytest.raises(ConfigError, match="`beams` must be 1 or more, and 1 where tokens are drawn"):
        Decoding(**setting)
