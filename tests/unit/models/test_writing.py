"""Answers written in batches: the tokens that transformers' own generate writes for one prompt alone."""

import numpy as np
import pytest
import torch

from tunewise.errors import ConfigError
from tunewise.models.causal import Causal
from tunewise.models.generate import Decoding, causal_writer, left_padded
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import ARCHITECTURES, tiny_causal


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
    return [np.concatenate([[0], rng.integers(4, 500, 2 + 5 * i)]) for i in range(count)]


def own(base: Causal, prompt: np.ndarray, tokens: int) -> list[int]:
    """The greedy answer of transformers' generate to one prompt, without what ends it."""
    ids = torch.as_tensor(prompt)[None]
    with torch.no_grad():
        whole = base.whole.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=base.pad_id,
            eos_token_id=list(base.end_ids),
        )
    said = whole[0, len(prompt) :].tolist()
    return said[:-1] if said and said[-1] in base.end_ids else said


def test_greedy_answers_are_those_of_transformers_one_by_one(base: Causal) -> None:
    written = causal_writer(base).write(prompts(7), Decoding(max_new_tokens=12))
    for prompt, answer in zip(prompts(7), written, strict=True):
        assert list(answer.ids) == own(base, prompt, 12)


def test_the_log_probability_is_that_of_the_answers_tokens(base: Causal) -> None:
    prompt = prompts(3)[2]
    (answer,) = causal_writer(base).write([prompt], Decoding(max_new_tokens=5))
    whole = np.concatenate([prompt, answer.ids])
    with torch.no_grad():
        log_TV = torch.log_softmax(base.whole(input_ids=torch.as_tensor(whole)[None]).logits[0].double(), -1)
    expected = sum(float(log_TV[len(prompt) - 1 + i, token]) for i, token in enumerate(answer.ids))
    if answer.ended:
        expected += float(log_TV[-1].max())
    assert answer.log_probability == pytest.approx(expected, abs=1e-3)


def test_rows_that_end_early_do_not_change_the_others(llama: Causal) -> None:
    alone = [causal_writer(llama).write([prompt], Decoding(max_new_tokens=20))[0] for prompt in prompts(9)]
    # what most rows write first ends an answer now, so that they leave the batch one after another
    ends = [row.ids[3] for row in alone[:5] if len(row.ids) > 3]
    before, llama.end_ids = llama.end_ids, (*llama.end_ids, *ends)
    try:
        together = causal_writer(llama).write(prompts(9), Decoding(max_new_tokens=20))
        for prompt, row in zip(prompts(9), together, strict=True):
            assert list(row.ids) == own(llama, prompt, 20)
    finally:
        llama.end_ids = before
    assert len({len(row.ids) for row in together}) > 2


def test_an_answer_ends_before_the_first_stop(llama: Causal) -> None:
    (free,) = causal_writer(llama).write(prompts(1), Decoding(max_new_tokens=20))
    stop = free.text[6:8]
    (cut,) = causal_writer(llama).write(prompts(1), Decoding(max_new_tokens=20, stop=("never in it", stop)))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.ended
    assert len(cut.ids) < len(free.ids)


def test_sampling_draws_from_the_seed_and_the_prompt_alone(llama: Causal) -> None:
    decoding = Decoding(max_new_tokens=8, temperature=1.0, seed=3)
    together = causal_writer(llama).write(prompts(5), decoding)
    alone = [causal_writer(llama).write([prompt], decoding)[0] for prompt in prompts(5)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    other = causal_writer(llama).write(prompts(5), Decoding(max_new_tokens=8, temperature=1.0, seed=4))
    assert [row.ids for row in together] != [row.ids for row in other]


def test_a_small_top_p_leaves_the_likeliest_token_alone(llama: Causal) -> None:
    greedy = causal_writer(llama).write(prompts(4), Decoding(max_new_tokens=6))
    narrow = causal_writer(llama).write(prompts(4), Decoding(max_new_tokens=6, temperature=1.0, top_p=1e-9))
    assert [row.ids for row in greedy] == [row.ids for row in narrow]


def test_only_allowed_tokens_are_written(llama: Causal) -> None:
    def allowed(ids: list[int]) -> list[int]:
        return [40 + len(ids), 90 + len(ids)]

    for row in causal_writer(llama).write(prompts(4), Decoding(max_new_tokens=5), allowed=allowed):
        assert all(token in (40 + i, 90 + i) for i, token in enumerate(row.ids))


def test_padding_stands_on_the_left_and_is_masked_by_its_place() -> None:
    ids, mask = left_padded([np.array([7, 1, 1]), np.array([1])], pad_id=1)
    assert ids.tolist() == [[7, 1, 1], [1, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be 1 or more, got 0"),
        ({"temperature": -1.0}, "`temperature` must be 0 or more"),
        ({"top_p": 0.0}, "`top_p` must lie above 0"),
        ({"stop": ("",)}, "`stop` holds an empty text"),
    ],
)
def test_impossible_decoding_is_refused(setting, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Decoding(**setting)
