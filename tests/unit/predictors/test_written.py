"""Answers that are written: the base's own greedy text, and the probability of the text that was wanted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.errors import BundleError, ModelError
from tunewise.evaluation.texts import mean_known, text_losses
from tunewise.models.causal import Causal
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.files import read_settings, write_settings
from tunewise.predictors.fixed_text import FixedTextPredictor
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Prompt
from tunewise.types import Example, Message

PROMPT = Prompt(instruction="Say it shorter.", lead="\nShort:")
ROWS = [
    Example(id="1", fields={"text": "the application crashes when I open the report"}, target="it crashes"),
    Example(id="2", fields={"text": "never dull"}, target="a film of great charm"),
    Example(id="3", fields={"text": "ok"}),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def made(base: Causal, prompt: Prompt = PROMPT, **decoding) -> WrittenPredictor:
    options = Decoding(**{"max_new_tokens": 10, **decoding})
    return WrittenPredictor(base=base, policy="keep_start", prompt=prompt, decoding=options)


def asked(row: Example) -> str:
    return f"Say it shorter.\n\n{row.fields['text']}\nShort:"


def test_the_answer_is_what_transformers_writes_after_the_prompt(base: Causal) -> None:
    for row, answer in zip(ROWS, made(base).predict(ROWS), strict=True):
        ids = torch.tensor([[*base.start_ids, *base.text_ids([asked(row)])[0]]])
        whole = base.whole.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            do_sample=False,
            pad_token_id=base.pad_id,
            eos_token_id=list(base.end_ids),
        )
        said = base.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert answer.text == said
        assert answer.abstained == (int(whole[0, -1]) not in base.end_ids)


def test_the_wanted_text_has_the_probability_that_the_model_gives_it(base: Causal) -> None:
    answers = made(base).predict(ROWS)
    for row, answer in zip(ROWS[:2], answers, strict=False):
        before = [*base.start_ids, *base.text_ids([asked(row)])[0]]
        whole = [*base.start_ids, *base.text_ids([f"{asked(row)} {row.target}"])[0], base.end_ids[0]]
        assert whole[: len(before)] == before
        with torch.no_grad():
            log_TV = torch.log_softmax(base.whole(input_ids=torch.tensor([whole])).logits[0].double(), -1)
        expected = sum(float(log_TV[i - 1, whole[i]]) for i in range(len(before), len(whole)))
        assert answer.target_log_probability == pytest.approx(expected, abs=1e-3)
        assert answer.target_tokens == len(whole) - len(before)
    assert answers[2].target_log_probability is None
    assert answers[2].target_tokens is None


def test_a_known_answer_does_not_change_what_is_written(base: Causal) -> None:
    bare = [dataclasses.replace(row, target=None) for row in ROWS]
    assert [a.text for a in made(base).predict(ROWS)] == [a.text for a in made(base).predict(bare)]


def test_a_row_that_is_too_long_leaves_room_for_the_answer(base: Causal) -> None:
    predictor = made(base, max_new_tokens=40)
    (answer,) = predictor.predict([Example(id="long", fields={"text": "the card was stolen " * 200})])
    assert answer.text
    assert predictor.given.input_tokens > 0


def test_answers_that_leave_no_room_for_a_prompt_are_refused(base: Causal) -> None:
    with pytest.raises(ModelError, match="answers of 256 tokens leave no room for a prompt"):
        made(base, max_new_tokens=256)


def test_the_turns_of_a_conversation_are_read_in_order(base: Causal) -> None:
    turns = (Message("user", "my card was stolen"), Message("assistant", "when"), Message("user", "today"))
    row = Example(id="1", fields={"input": "today"}, messages=turns, target="it is blocked")
    text, tokens = made(base, Prompt(lead="\nAssistant:")).laid_out(row)
    assert text == "User: my card was stolen\nAssistant: when\nUser: today\nAssistant: it is blocked"
    scored = [token.id for token in tokens if token.scored]
    assert base.tokenizer.decode(scored[:-1]) == " it is blocked"
    assert scored[-1] == base.end_ids[0]


def test_from_disk_it_writes_the_same(base: Causal, tmp_path: Path) -> None:
    predictor = made(base, stop=("\n",), temperature=0.7, seed=5)
    predictor.save(tmp_path)
    again = WrittenPredictor.load(tmp_path, lambda name: base)
    assert again.decoding == predictor.decoding
    assert [a.text for a in again.predict(ROWS)] == [a.text for a in predictor.predict(ROWS)]
    settings = read_settings(tmp_path / "written.json", {"prompt": dict})
    settings["prompt"]["lead"] = "\nLong:"
    write_settings(tmp_path / "written.json", settings)
    with pytest.raises(BundleError, match="the prompt is not the one that was measured"):
        WrittenPredictor.load(tmp_path, lambda name: base)


def test_a_base_that_does_not_write_is_refused(tiny) -> None:
    with pytest.raises(ModelError, match="writes nothing"):
        made(tiny)


def test_a_fixed_text_is_the_answer_to_everything(tmp_path: Path) -> None:
    FixedTextPredictor("the same").save(tmp_path)
    again = FixedTextPredictor.load(tmp_path, lambda name: None)  # type: ignore[arg-type, return-value]
    assert [answer.text for answer in again.predict(ROWS)] == ["the same"] * 3
    assert again.predict(ROWS)[0].target_log_probability is None


def test_losses_are_nats_by_token_and_unknown_ones_are_not_numbers(base: Causal) -> None:
    answers = made(base).predict(ROWS)
    expected = [-float(a.target_log_probability or 0.0) / (a.target_tokens or 1) for a in answers[:2]]
    found = text_losses(answers)
    np.testing.assert_allclose(found[:2], expected)
    assert np.isnan(found[2])
    assert mean_known(found) == pytest.approx(np.mean(expected))
    assert np.isnan(mean_known(text_losses(FixedTextPredictor("x").predict(ROWS))))


def test_a_target_without_room_has_no_probability_rather_than_that_of_its_start(base: Causal) -> None:
    row = Example(id="1", fields={"text": "ok"}, target="the card was stolen " * 200)
    (answer,) = made(base).predict([row])
    assert answer.text
    assert answer.target_log_probability is None


def test_the_probability_of_what_was_written_is_that_of_its_tokens(base: Causal) -> None:
    predictor = made(base, max_new_tokens=4)
    wanted = dataclasses.replace(ROWS[0], target="it crashes")
    (answer,) = predictor.predict([wanted])
    assert predictor.log_probability(ROWS[0], "it crashes") == pytest.approx(answer.target_log_probability, abs=1e-4)
