"""Asking a base: scores are its own log-probabilities of the labels' words, however they are laid out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.errors import BundleError, ModelError, PromptError
from tunewise.models.causal import Causal
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.files import read_settings, write_settings
from tunewise.predictors.prompted import SETTINGS, PromptedPredictor, _Shorter
from tunewise.prompts.prompt import Demonstration, Prompt
from tunewise.prompts.sourced import Source
from tunewise.types import Example, Message

LABELS = ("bad", "good", "so-so")
ROWS = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(["never dull", "the worst film", "ok", ""])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def made(base: Causal, **changes) -> PromptedPredictor:
    words = {"bad": "worst", "good": "great", "so-so": "never great"}
    shown = (Demonstration({"text": "a film of great charm"}, "great"),)
    prompt = Prompt(instruction="How is the film?", words=words, demonstrations=shown)
    options = {"base": base, "labels": LABELS, "policy": "keep_start", "prompt": prompt, **changes}
    return PromptedPredictor(**options)


def own(base: Causal, text: str, answer: str) -> np.ndarray:
    """Log-probabilities of the answer's tokens by the whole model, one text alone."""
    before = [*base.start_ids, *base.text_ids([text])[0]]
    whole = [*base.start_ids, *base.text_ids([text + answer])[0]]
    assert whole[: len(before)] == before
    with torch.no_grad():
        log_TV = torch.log_softmax(base.whole(input_ids=torch.tensor([whole])).logits[0].double(), -1)
    return np.array([float(log_TV[i - 1, whole[i]]) for i in range(len(before), len(whole))])


def text_of(row: Example) -> str:
    return f"How is the film?\n\na film of great charm\nAnswer: great\n\n{row.fields['text']}\nAnswer:"


@pytest.mark.parametrize(("length", "divide"), [("sum", np.sum), ("token", np.mean)])
def test_scores_are_the_models_log_probabilities_of_the_words(base: Causal, length, divide) -> None:
    for row, answer in zip(ROWS, made(base, length=length).predict(ROWS), strict=True):
        found = np.array([divide(own(base, text_of(row), f" {w}")) for w in ("worst", "great", "never great")])
        share = np.exp(found - found.max())
        expected = dict(zip(LABELS, share / share.sum(), strict=True))
        assert answer.scores == pytest.approx(expected, abs=1e-4)
        assert answer.text == max(expected, key=lambda label: expected[label])


def test_an_answer_does_not_depend_on_the_rows_beside_it(base: Causal) -> None:
    together = made(base).predict(ROWS)
    for row, answer in zip(ROWS, together, strict=True):
        (alone,) = made(base).predict([row])
        assert alone.scores == pytest.approx(answer.scores, abs=1e-4)


def test_domain_calibration_takes_off_what_the_words_have_without_a_row(base: Causal) -> None:
    plain, taken = (made(base, calibration=how).predict(ROWS) for how in ("none", "domain"))
    prior = [own(base, "Answer:", f" {word}").sum() for word in ("worst", "great", "never great")]
    for before, after in zip(plain, taken, strict=True):
        moved = np.log(list((after.scores or {}).values())) - np.log(list((before.scores or {}).values()))
        np.testing.assert_allclose(moved - moved[0], -(np.array(prior) - prior[0]), atol=1e-3)


def test_contextual_calibration_takes_off_what_rows_that_say_nothing_have(base: Causal) -> None:
    plain, taken = (made(base, calibration=how).predict(ROWS) for how in ("none", "contextual"))
    empty = [Example(id="", fields={"text": text}) for text in ("N/A", "[MASK]", "")]
    words = ("worst", "great", "never great")
    prior = np.mean([[own(base, text_of(row), f" {word}").sum() for word in words] for row in empty], axis=0)
    for before, after in zip(plain, taken, strict=True):
        moved = np.log(list((after.scores or {}).values())) - np.log(list((before.scores or {}).values()))
        np.testing.assert_allclose(moved - moved[0], -(prior - prior[0]), atol=1e-3)


def test_a_row_that_is_too_long_gives_way_and_it_is_counted(base: Causal) -> None:
    predictor = made(base)
    long = Example(id="long", fields={"text": "never dull " * 400})
    assert predictor.predict([long])[0].text in LABELS
    assert predictor.given.demonstrations == 1
    assert predictor.given.input_tokens > 0
    text, tokens = predictor.laid_out(long)
    assert len(tokens) <= base.info.max_tokens
    assert text.startswith("How is the film?\n\nnever dull")
    assert text.endswith("\nAnswer: worst")


def test_what_is_laid_out_is_what_is_read_and_only_the_answer_is_scored(base: Causal) -> None:
    text, tokens = made(base).laid_out(Example(id="1", fields={"text": "ok"}, target="so-so"))
    assert text == text_of(ROWS[2]) + " never great"
    assert [token.id for token in tokens] == [*base.start_ids, *base.text_ids([text])[0]]
    scored = [token.id for token in tokens if token.scored]
    assert base.tokenizer.decode(scored) == " never great"
    assert [token.scored for token in tokens] == sorted(token.scored for token in tokens)


def test_from_disk_it_answers_the_same(base: Causal, tmp_path: Path) -> None:
    predictor = made(base, length="token", calibration="contextual")
    predictor.save(tmp_path)
    again = PromptedPredictor.load(tmp_path, lambda name: base)
    for one, other in zip(predictor.predict(ROWS), again.predict(ROWS), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_another_prompt_than_the_one_measured_is_refused(base: Causal, tmp_path: Path) -> None:
    made(base).save(tmp_path)
    keys = {"prompt": dict, "digest": str}
    settings = read_settings(tmp_path / SETTINGS, keys)
    settings["prompt"]["instruction"] = "How bad is the film?"
    write_settings(tmp_path / SETTINGS, settings)
    with pytest.raises(BundleError, match="the prompt is not the one that was measured"):
        PromptedPredictor.load(tmp_path, lambda name: base)
    del settings["prompt"]["demonstrations"]
    write_settings(tmp_path / SETTINGS, settings)
    with pytest.raises(BundleError, match="the prompt cannot be read"):
        PromptedPredictor.load(tmp_path, lambda name: base)


def test_a_base_that_does_not_write_is_refused(tiny) -> None:
    with pytest.raises(ModelError, match=r"gives no probabilities of words\. Use a causal or seq2seq base"):
        made(tiny)


def test_a_base_that_writes_has_no_place_for_an_answer_in_the_middle(base: Causal) -> None:
    prompt = Prompt(words={label: label for label in LABELS}, lead=" It was {{ mask }}.")
    with pytest.raises(PromptError, match=r"writes answers after its prompt\. Leave \{\{ mask \}\} out"):
        made(base, prompt=prompt).predict(ROWS)


def test_a_label_without_words_is_refused(base: Causal) -> None:
    with pytest.raises(PromptError, match="no words for the label 'good'"):
        made(base, prompt=Prompt(words={"bad": "worst", "so-so": "ok"}))


def test_words_that_join_the_prompts_last_token_are_scored_from_before_it(base: Causal) -> None:
    """A tokenizer may make one token of the end of the prompt and the start of a word."""
    requests = base._after([5, 6, 7], [[5, 6, 9], [5, 6, 7, 8], [5, 6, 7, 9]], end=())
    assert [request.context.tolist() for request in requests] == [[0, 5, 6]] * 3
    assert [request.continuation.tolist() for request in requests] == [[9], [7, 8], [7, 9]]


def test_a_label_that_begins_anothers_words_is_told_from_it_by_where_the_answer_ends(base: Causal) -> None:
    words = {"bad": "never", "good": "never great", "so-so": "ok"}
    predictor = made(base, prompt=Prompt(words=words))
    row = ROWS[1]
    text = f"{row.fields['text']}\nAnswer:"
    found = np.array([own(base, text, f" {words[label]}\n").sum() for label in LABELS])
    share = np.exp(found - found.max())
    (answer,) = predictor.predict([row])
    assert answer.scores == pytest.approx(dict(zip(LABELS, share / share.sum(), strict=True)), abs=1e-4)


@pytest.mark.parametrize(
    ("policy", "start", "end"), [("keep_start", "the ", " today"), ("keep_end", "stolen ", " last")]
)
def test_of_a_pair_the_longer_text_is_cut_and_the_template_stays(base: Causal, policy, start, end) -> None:
    prompt = Prompt(template="{{ a }} | {{ b }} | true?", words={label: label for label in LABELS})
    row = Example(id="1", fields={"a": "the card was stolen " * 90 + "last", "b": "it was today"})
    text, tokens = made(base, prompt=prompt, policy=policy).laid_out(row)
    assert text.endswith(" | it was today | true?\nAnswer: bad")
    assert len(tokens) <= base.info.max_tokens
    if policy == "keep_start":
        assert text.startswith("the card was")
    else:
        assert "last | it was today" in text


def test_a_field_that_the_template_does_not_read_is_not_cut(base: Causal) -> None:
    """It is the longest, so that nothing would be left of it before what is read gives way, and is counted."""
    prompt = Prompt(template="{{ a }} | true?", words={label: label for label in LABELS})
    row = Example(id="1", fields={"a": "the card was stolen " * 90, "notes": "never dull " * 400})
    shorter = _Shorter(base, prompt, row, "keep_start")
    assert shorter(5) is not None
    assert shorter.row.fields["notes"] == row.fields["notes"]
    assert len(base.text_ids([shorter.row.fields["a"]])[0]) <= len(base.text_ids([row.fields["a"]])[0]) - 5


@pytest.mark.parametrize("start_is_kept", [True, False])
def test_what_a_template_draws_for_a_row_stays_when_the_row_is_cut(base: Causal, start_is_kept: bool) -> None:
    drawn = "{{ range(100000) | choice }}: {{ text }} ||| {{ label }}"
    source = Source(id="t", name="own", jinja=drawn, unknown={"label": "?"}, seed=3)
    prompt = Prompt(source=source, words={label: label for label in LABELS})
    row = Example(id="1", fields={"text": "the card was stolen " * 90})
    (whole,) = source.blocks([row])
    policy = "keep_start" if start_is_kept else "keep_end"
    text, _ = made(base, prompt=prompt, policy=policy).laid_out(row)
    assert text.split(": ")[0] == whole.split(": ")[0]
    assert len(text) < len(whole)


def test_of_a_conversation_the_field_that_a_template_reads_is_cut(base: Causal) -> None:
    said = "the card was stolen " * 90
    prompt = Prompt(template="{{ input }} | true?", words={label: label for label in LABELS})
    row = Example(id="1", fields={"input": said}, messages=(Message("user", said),))
    text, tokens = made(base, prompt=prompt).laid_out(row)
    assert text.startswith("the card was")
    assert text.endswith(" | true?\nAnswer: bad")
    assert len(tokens) <= base.info.max_tokens


def test_the_oldest_turns_of_a_conversation_give_way_first(base: Causal) -> None:
    turns = [Message("system", "be kind")]
    turns += [Message("user" if i % 2 == 0 else "assistant", f"{i} the card was stolen " * 8) for i in range(9)]
    row = Example(id="1", fields={"input": "x"}, messages=tuple(turns))
    prompt = Prompt(words={label: label for label in LABELS})
    text, tokens = made(base, prompt=prompt).laid_out(row)
    assert text.startswith("System: be kind\n")
    assert "8 the card was stolen" in text
    assert "0 the card was stolen" not in text
    assert len(tokens) <= base.info.max_tokens
