"""Encoder-decoders: what transformers itself says of the same texts, however they are batched."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tunewise.adapters.bottleneck import adapted_layers
from tunewise.adapters.ia3 import rescaled_layers
from tunewise.adapters.lora import target_layers
from tunewise.adapters.prefix import refusal
from tunewise.errors import ConfigError, ModelError
from tunewise.models.answers import scorer_of, writer_of
from tunewise.models.generate import Decoding
from tunewise.models.load import describe_base, load_base
from tunewise.models.prefix_tree import Request
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tiny_seq2seq import ARCHITECTURES, tiny_seq2seq

ANSWERS = ("great", "never dull", "never", "the worst product I have ever bought")


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "bart, free to begin"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Seq2Seq:
    architecture, _, free = request.param.partition(", ")
    folder = tiny_seq2seq(tmp_path_factory.mktemp("seq2seq"), architecture=architecture)
    if free:
        settings = json.loads((folder / "generation_config.json").read_text())
        del settings["forced_bos_token_id"]
        (folder / "generation_config.json").write_text(json.dumps(settings))
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Seq2Seq)
    assert len(loaded.lead_ids) == (2 if request.param == "bart" else 1)
    if architecture == "bart":
        # as Marian has them, for a base that ignores them would go unnoticed
        bias = torch.randn(1, loaded.vocabulary, generator=torch.Generator().manual_seed(0))
        loaded.whole.final_logits_bias.copy_(bias)
    return loaded


def prompts(n: int) -> list[str]:
    words = ["the", "card", "was", "stolen", "and", "my", "payment", "is", "still", "pending"]
    return [" ".join(words[i % 5 : i % 5 + 1 + i % 7]) + f" {i}" for i in range(n)]


def asked(base: Seq2Seq, n: int, end: bool = True) -> list[Request]:
    return [request for prompt in prompts(n) for request in base.requests(prompt, ANSWERS, end=end)]


def own(base: Seq2Seq, request: Request) -> np.ndarray:
    """Negative losses by transformers, of one request alone; a forced first token is no part of them."""
    lead = [*base.lead_ids, *request.continuation]
    labels = torch.full((1, len(lead) - 1), -100)
    labels[0, len(base.lead_ids) - 1 :] = torch.as_tensor(request.continuation)
    found = []
    with torch.no_grad():
        for place in range(len(base.lead_ids) - 1, len(lead) - 1):
            one = torch.full_like(labels, -100)
            one[0, place] = labels[0, place]
            output = base.whole(
                input_ids=torch.as_tensor(request.context)[None],
                decoder_input_ids=torch.tensor([lead[:-1]]),
                labels=one,
            )
            found.append(-float(output.loss))
    return np.array(found)


def test_answers_have_the_log_probabilities_that_transformers_loss_gives_them(base: Seq2Seq) -> None:
    requests = asked(base, 30)
    found = scorer_of(base).score(requests)
    for request, log_probabilities in list(zip(requests, found, strict=True))[::13]:
        np.testing.assert_allclose(log_probabilities, own(base, request), atol=1e-4)


def test_what_is_tokenised_and_scored_is_what_the_tokenizer_makes_of_prompt_and_target(base: Seq2Seq) -> None:
    (request,) = base.requests("the card was", [" never dull"], end=True)
    assert request.context.tolist() == base.tokenizer("the card was")["input_ids"]
    target = base.tokenizer(text_target="never dull")["input_ids"]
    with torch.no_grad():
        output = base.whole(input_ids=torch.as_tensor(request.context)[None], labels=torch.tensor([target]))
        log_TV = torch.log_softmax(output.logits[0].double(), dim=-1)
    expected = [float(log_TV[place, token]) for place, token in enumerate(target)]
    forced = len(base.lead_ids) - 1
    (found,) = scorer_of(base).score([request])
    np.testing.assert_allclose(found, expected[forced:], atol=1e-4)
    if not forced:
        assert float(output.loss) == pytest.approx(-found.mean(), abs=1e-4)


def test_a_score_does_not_depend_on_what_is_scored_beside_it(base: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked(base, 20)
    together = scorer_of(base).score(requests)
    for i in (0, 7, 63):
        np.testing.assert_allclose(scorer_of(base).score([requests[i]])[0], together[i], atol=1e-4)
    backwards = scorer_of(base).score([*requests[::-1], requests[3]])
    for one, other in zip(together, backwards[:-1][::-1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_array_equal(backwards[-1], backwards[len(requests) - 4])
    monkeypatch.setattr("tunewise.models.seq2seq_score.PROMPT_TOKENS_CPU", 20)
    monkeypatch.setattr("tunewise.models.seq2seq_score.ANSWER_TOKENS_CPU", 30)
    monkeypatch.setattr("tunewise.models.seq2seq_score.LOGITS", 1000)
    for one, other in zip(together, scorer_of(base).score(requests), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_prompt_is_encoded_once_however_many_answers_it_has(base: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    handle = base.body.encoder.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        scorer_of(base).score(asked(base, 9) * 2)
    finally:
        handle.remove()
    assert sum(seen) == 9


def test_the_tokens_that_are_computed_are_counted(base: Seq2Seq) -> None:
    requests = base.requests("the card", ["never", "never dull"])
    read = len(requests[0].context) + len(base.lead_ids)
    read += sum(len(request.continuation) - 1 for request in requests)
    assert scorer_of(base).tokens([*requests, *requests]) == read
    assert scorer_of(base).score([]) == []


def by_generate(base: Seq2Seq, prompt: np.ndarray, tokens: int) -> list[int]:
    """What transformers writes, without what it started from and what ended it."""
    written = base.whole.generate(
        torch.as_tensor(prompt)[None], max_new_tokens=tokens + len(base.lead_ids) - 1, do_sample=False, num_beams=1
    )[0].tolist()[len(base.lead_ids) :]
    return written[: next((i for i, token in enumerate(written) if token in base.end_ids), len(written))]


def test_greedy_answers_are_those_of_transformers_one_by_one(base: Seq2Seq) -> None:
    ids = base.prompt_ids(prompts(7))
    for prompt, answer in zip(ids, writer_of(base).write(ids, Decoding(max_new_tokens=12)), strict=True):
        assert list(answer.ids) == by_generate(base, prompt, 12)


def test_the_log_probability_of_an_answer_is_that_of_scoring_it(base: Seq2Seq) -> None:
    ids = base.prompt_ids(prompts(5))
    for prompt, answer in zip(ids, writer_of(base).write(ids, Decoding(max_new_tokens=8)), strict=True):
        tokens = [*answer.ids, *(base.end_ids[:1] if answer.ended else ())]
        (found,) = scorer_of(base).score([Request(prompt, np.array(tokens))])
        assert answer.log_probability == pytest.approx(found.sum(), abs=1e-4)


def test_answers_do_not_depend_on_the_prompts_beside_them_also_where_rows_end_early(base: Seq2Seq) -> None:
    ids = base.prompt_ids(prompts(9))
    writer = writer_of(base)
    alone = [writer.write([prompt], Decoding(max_new_tokens=16))[0] for prompt in ids]
    stop = sorted({answer.text[3:6] for answer in alone if len(answer.text) > 6})[0]
    alone = [writer.write([prompt], Decoding(max_new_tokens=16, stop=(stop,)))[0] for prompt in ids]
    assert len({len(answer.ids) for answer in alone}) > 1
    together = writer.write(ids, Decoding(max_new_tokens=16, stop=(stop,)))
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    drawn = Decoding(max_new_tokens=6, temperature=1.0, seed=3)
    assert [a.ids for a in writer.write(ids, drawn)] == [writer.write([prompt], drawn)[0].ids for prompt in ids]


def test_features_are_the_mean_of_the_encoders_states(base: Seq2Seq) -> None:
    rows = [(text,) for text in prompts(6)]
    found = base.features(rows, "keep_start")
    for (text,), vector_H in zip(rows, found, strict=True):
        with torch.no_grad():
            ids = torch.tensor([base.tokenizer(text)["input_ids"]])
            expected_TH = base.whole.get_encoder()(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(vector_H, expected_TH.mean(0).numpy(), atol=1e-4)


def test_output_rows_are_what_logits_are_made_of(base: Seq2Seq) -> None:
    hidden_SH = torch.randn(4, base.info.hidden_size, generator=torch.Generator().manual_seed(1))
    rows_SH, bias_S = base.output_rows([5, 9, 300])
    with torch.no_grad():
        expected = base.read(hidden_SH)[:, [5, 9, 300]].numpy()
    np.testing.assert_allclose(hidden_SH.numpy() @ rows_SH.T + bias_S, expected, atol=1e-4)


def test_prompt_and_answer_have_a_limit_each(base: Seq2Seq) -> None:
    added = len(base.prompt_ids([""])[0])
    assert base.room(1) == base.room(200) == 256 - added
    assert base.room(300) == 0
    (short,) = base.requests(" never" * 250, ["great"])
    assert base.fits(short)
    assert not base.fits(base.requests("never", ["great " * 300])[0])


def test_a_copy_of_a_base_has_a_scorer_of_its_own(base: Seq2Seq) -> None:
    assert scorer_of(base) is scorer_of(base)
    other = copy.copy(base)
    assert scorer_of(other).base is other


def test_a_base_that_does_not_say_what_answers_start_from_is_refused(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path)
    for file in ("config.json", "generation_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace('"decoder_start_token_id": 1', '"decoder_start_token_id": null'))
    with pytest.raises(ModelError, match="has a `decoder_start_token_id`, so it is not known"):
        load_base(str(folder), device="cpu")


def test_other_encoder_decoders_are_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path)
    config = (folder / "config.json").read_text().replace('"model_type": "t5"', '"model_type": "longt5"')
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"kind of base recognised: seq2seq \('longt5'\)"):
        describe_base(str(folder))


def test_an_unknown_tiny_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no 'bert'"):
        tiny_seq2seq(tmp_path, architecture="bert")


TRANSLITERATION = Path(__file__).parents[4] / "shared/data/models/aren-transliteration"


@pytest.mark.skipif(not TRANSLITERATION.is_dir(), reason="the transliteration model is not here")
def test_a_real_transliterator_writes_what_its_makers_test_it_by() -> None:
    base = load_base(str(TRANSLITERATION), device="cpu", dtype="float32")
    assert isinstance(base, Seq2Seq)
    names = {"آتزمون": "atzmon", "آزا": "azza", "بغداد": "baghdad", "فاطمة": "fatma", "واشنطن": "washenten"}
    ids = base.prompt_ids(list(names))
    answers = writer_of(base).write(ids, Decoding(max_new_tokens=30))
    assert [answer.text for answer in answers] == list(names.values())
    for prompt, answer in zip(ids, answers, strict=True):
        assert list(answer.ids) == by_generate(base, prompt, 30)
    (request,) = base.requests("بغداد", [" baghdad"], end=True)
    (found,) = scorer_of(base).score([request])
    np.testing.assert_allclose(found, own(base, request), atol=1e-4)


KIN = ("mt5", "umt5", "mbart", "plbart", "marian", "pegasus", "blenderbot", "blenderbot-small", "m2m_100")


@pytest.mark.parametrize("architecture", KIN)
def test_their_kin_score_and_write_as_transformers_does(architecture: str, tmp_path: Path, one_thread: None) -> None:
    like = "t5" if architecture.endswith("t5") else "bart"
    folder = tiny_seq2seq(tmp_path, architecture=like)
    settings = json.loads((folder / "config.json").read_text())
    kept = ("d_", "num_", "encoder_", "decoder_", "max_", "vocab", "feed_", "relative", "pad_", "bos_", "eos_")
    same = {key: value for key, value in settings.items() if key.startswith(kept)}
    same |= {"forced_eos_token_id": None, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(architecture, **same))
        model.save_pretrained(folder)
    base = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(base, Seq2Seq)
    requests = asked(base, 5)
    for request, log_probabilities in list(zip(requests, scorer_of(base).score(requests), strict=True))[::5]:
        np.testing.assert_allclose(log_probabilities, own(base, request), atol=1e-4)
    ids = base.prompt_ids(prompts(4))
    for prompt, answer in zip(ids, writer_of(base).write(ids, Decoding(max_new_tokens=8)), strict=True):
        assert list(answer.ids) == by_generate(base, prompt, 8)
    assert base.features([("the card",), ("was stolen",)], "keep_start").shape == (2, 32)
    assert target_layers(base.model, "attention")
    assert target_layers(base.model, "feedforward")
    assert rescaled_layers(base.model)
    assert adapted_layers(base.model, "houlsby")
    assert refusal(base.for_texts().model) is None, "a prefix goes into the decoder"
