"""An encoder-decoder that is asked: the prompt is what its encoder reads, the answer what its decoder says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.errors import ModelError
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.predictors.prompted import PromptedPredictor
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Demonstration, Prompt
from tunewise.types import Example

WORDS = {"bad": "worst", "good": "never", "so-so": "never great"}
ROWS = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(["never dull", "the worst film", "ok", ""])]
SHOWN = (Demonstration({"text": "a film of great charm"}, "never"),)
PROMPT = Prompt(instruction="How is the film?", words=WORDS, demonstrations=SHOWN)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Seq2Seq:
    loaded = load_base(str(tiny_seq2seq(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Seq2Seq)
    return loaded


def text_of(row: Example) -> str:
    return f"How is the film?\n\na film of great charm\nAnswer: never\n\n{row.fields['text']}\nAnswer:"


def loss(base: Seq2Seq, text: str, target: list[int]) -> float:
    """Summed over the target's tokens, by transformers."""
    with torch.no_grad():
        ids = torch.tensor([base.tokenizer(text)["input_ids"]])
        return float(base.whole(input_ids=ids, labels=torch.tensor([target])).loss) * len(target)


def asks(base: Seq2Seq, **changes) -> PromptedPredictor:
    options = {"base": base, "labels": tuple(WORDS), "policy": "keep_start", "prompt": PROMPT, **changes}
    return PromptedPredictor(**options)


def writes(base: Seq2Seq, **decoding) -> WrittenPredictor:
    prompt = Prompt(instruction="How is the film?", demonstrations=SHOWN)
    return WrittenPredictor(base=base, policy="keep_start", prompt=prompt, decoding=Decoding(**decoding))


def test_a_label_that_begins_another_is_scored_with_its_end_as_transformers_loss_scores_it(base: Seq2Seq) -> None:
    for row, answer in zip(ROWS, asks(base).predict(ROWS), strict=True):
        found = np.array([-loss(base, text_of(row), base.tokenizer(word)["input_ids"]) for word in WORDS.values()])
        share = np.exp(found - found.max())
        assert answer.scores == pytest.approx(dict(zip(WORDS, share / share.sum(), strict=True)), abs=1e-4)


def test_answers_do_not_depend_on_the_rows_beside_them(base: Seq2Seq) -> None:
    for predictor in (asks(base, calibration="domain"), asks(base, calibration="contextual", length="token")):
        for row, answer in zip(ROWS, predictor.predict(ROWS), strict=True):
            assert predictor.predict([row])[0].scores == pytest.approx(answer.scores, abs=1e-4)


def test_what_is_laid_out_is_what_encoder_and_decoder_read(base: Seq2Seq) -> None:
    text, tokens = asks(base).laid_out(Example(id="1", fields={"text": "ok"}, target="bad"))
    assert text == text_of(ROWS[2]) + " worst</s>"
    assert [token.id for token in tokens if not token.scored] == base.tokenizer(text_of(ROWS[2]))["input_ids"]
    assert [token.id for token in tokens if token.scored] == base.tokenizer("worst")["input_ids"]


def test_written_answers_and_targets_are_those_of_transformers(base: Seq2Seq) -> None:
    rows = [Example(id=row.id, fields=row.fields, target=f"the film {row.id}") for row in ROWS]
    for row, answer in zip(rows, writes(base, max_new_tokens=10).predict(rows), strict=True):
        ids = torch.tensor([base.tokenizer(text_of(row))["input_ids"]])
        written = base.whole.generate(ids, max_new_tokens=10, do_sample=False)[0, 1:]
        assert answer.text == base.tokenizer.decode(written, skip_special_tokens=True).strip()
        target = base.tokenizer(str(row.target))["input_ids"]
        assert answer.target_tokens == len(target)
        assert answer.target_log_probability == pytest.approx(-loss(base, text_of(row), target), abs=1e-3)


def test_from_disk_it_answers_the_same(base: Seq2Seq, tmp_path: Path) -> None:
    asks(base).save(tmp_path)
    again = PromptedPredictor.load(tmp_path, lambda name: base)
    assert [a.scores for a in again.predict(ROWS)] == [a.scores for a in asks(base).predict(ROWS)]
    writes(base, max_new_tokens=5).save(tmp_path)
    written = WrittenPredictor.load(tmp_path, lambda name: base)
    assert [a.text for a in written.predict(ROWS)] == [a.text for a in writes(base, max_new_tokens=5).predict(ROWS)]


def test_a_prompt_that_is_too_long_gives_way_in_the_encoder_whatever_the_answer_takes(base: Seq2Seq) -> None:
    predictor = writes(base, max_new_tokens=200)
    long = Example(id="long", fields={"text": "never dull " * 400}, target="ok")
    text, tokens = predictor.laid_out(long)
    read = [token.id for token in tokens if not token.scored]
    assert len(read) <= base.info.max_tokens
    assert text.endswith("\nAnswer: ok")
    with pytest.raises(ModelError, match="leave no room for a prompt"):
        writes(base, max_new_tokens=300)


def test_special_tokens_around_a_target_are_no_words(base: Seq2Seq) -> None:
    assert not base.reads("<unk>")
    assert base.reads("\nAnswer:")
