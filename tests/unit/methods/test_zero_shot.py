"""A base that fills gaps is asked for labels, and compared with them where it cannot be asked."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.config import Budget, DataConfig, PromptTask, Task
from tunewise.errors import BundleError, ConfigError, PromptError
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold, skip_reason
from tunewise.methods.zero_shot import ZeroShotConfig
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.masked import Masked
from tunewise.models.tiny import tiny_encoder, tiny_masked
from tunewise.predictors.prompted import SETTINGS, PromptedPredictor
from tunewise.search.space import FixedGrid
from tunewise.types import Example, Prediction

LABELS = ("bug", "login", "price")
WORDS = {"bug": "crashes", "login": "my password", "price": "refund the money"}
ROWS = tuple(
    Example(id=str(i), fields={"text": text}, target=LABELS[i % 3])
    for i, text in enumerate(["the application", "reset my account", "a never ending order", "the card", "now", ""])
)


def context_of(folder: Path) -> Context:
    base = load_base(str(folder), device="cpu", dtype="float32")
    task = Task(
        data=DataConfig(train="in-memory.csv"),
        models=(str(folder),),
        dtype="float32",
        budget=Budget(work=10**9),
        truncation="keep_start",
        words=WORDS,
    )
    fold = Fold(train=ROWS, race=ROWS)
    features = FeatureStore(base, "keep_start", ROWS, None)
    return Context(task=task, labels=LABELS, base=base, folds=(fold,), features=features, work=10**9, seed=3)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Context:
    return context_of(tiny_masked(tmp_path_factory.mktemp("masked")))


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Context:
    return context_of(tiny_encoder(tmp_path_factory.mktemp("encoder")))


def answers(context: Context, config: ZeroShotConfig) -> list[Prediction]:
    bracket = get_method("zero_shot").open(context, [config])
    bracket.advance(1)
    return bracket.predictions()[0]


def own(base: Masked, text: str, words: str, after: str) -> np.ndarray:
    """Log-probabilities of the words' tokens by the whole model, with as many masks as there are tokens."""
    ids = base.tokenizer(words, add_special_tokens=False)["input_ids"]
    read = base.tokenizer(f"{text} {'[MASK] ' * len(ids)}{after}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_SV = torch.log_softmax(base.whole(input_ids=read).logits[0].double(), -1)[read[0] == base.mask_id]
    return np.array([float(log_SV[i, token]) for i, token in enumerate(ids)])


@pytest.mark.parametrize(("length", "divide"), [("sum", np.sum), ("token", np.mean)])
@pytest.mark.parametrize(
    ("prompt", "text", "after"),
    [({}, "{}\nAnswer:", "."), ({"template": "about {{ mask }}: {{ text }}"}, "about", ": {}")],
)
def test_labels_with_words_of_different_lengths_have_the_models_probabilities(
    context: Context, length, divide, prompt, text, after
) -> None:
    base = context.base
    assert isinstance(base, Masked)
    assert [len(ids) for ids in base.text_ids(list(WORDS.values()))] == [1, 2, 3]
    for row, answer in zip(ROWS, answers(context, ZeroShotConfig(length=length, **prompt)), strict=True):
        said = row.fields["text"]
        score = np.array([divide(own(base, text.format(said), w, after.format(said))) for w in WORDS.values()])
        share = np.exp(score - score.max())
        assert list((answer.scores or {}).values()) == pytest.approx((share / share.sum()).tolist(), abs=1e-4)


def test_domain_calibration_takes_off_what_the_words_have_in_the_lead_alone(context: Context) -> None:
    plain, taken = (answers(context, ZeroShotConfig(calibration=how)) for how in ("none", "domain"))
    assert isinstance(context.base, Masked)
    prior = np.array([own(context.base, "Answer:", words, ".").sum() for words in WORDS.values()])
    for before, after in zip(plain, taken, strict=True):
        moved = np.log(list((after.scores or {}).values())) - np.log(list((before.scores or {}).values()))
        np.testing.assert_allclose(moved - moved[0], -(prior - prior[0]), atol=1e-3)


def test_it_is_asked_first_and_compared_as_a_candidate(context: Context) -> None:
    method = get_method("zero_shot")
    assert method.default(context) == ZeroShotConfig()
    tried = method.propose(context, FixedGrid(), np.random.default_rng(0), 9)
    assert ZeroShotConfig(by="similarity") in tried
    assert ZeroShotConfig(calibration="contextual") in tried
    bracket = method.open(context, [ZeroShotConfig(), ZeroShotConfig(by="similarity")])
    assert bracket.advance(1) > 0
    one, other = bracket.predictions()
    assert one != other


def test_a_template_that_names_the_place_has_no_lead_whose_share_could_be_taken_off(
    context: Context,
) -> None:
    task = dataclasses.replace(context.task, prompt=PromptTask(template="about {{ mask }}: {{ text }}"))
    placed = dataclasses.replace(context, task=task)
    for asked, known in ((context, True), (placed, False)):
        tried = get_method("zero_shot").propose(asked, FixedGrid(), np.random.default_rng(0), 9)
        assert (ZeroShotConfig(calibration="domain") in tried) == known
    with pytest.raises(PromptError, match="the template says where the answer stands"):
        answers(placed, ZeroShotConfig(calibration="domain"))


def test_a_base_without_the_head_is_compared_and_it_is_said_why(headless: Context) -> None:
    method = get_method("zero_shot")
    assert method.default(headless) == ZeroShotConfig(by="similarity")
    (note,) = method.open(headless, [method.default(headless)]).notes
    assert "hold no weights of its head for masked words" in note
    with pytest.raises(ConfigError, match=r"`by: words` needs a base that says how likely words are"):
        method.open(headless, [ZeroShotConfig()])


def test_where_it_cannot_be_asked_it_is_compared_and_it_is_said_why(context: Context) -> None:
    method = get_method("zero_shot")
    task = dataclasses.replace(context.task, instruction="what is it about " * 200)
    long = dataclasses.replace(context, task=task)
    assert skip_reason(method, long) is None
    assert method.default(long).by == "similarity"
    (note,) = method.open(long, [method.default(long)]).notes
    assert "the instruction and what leads to the answer alone take more" in note


def test_texts_are_not_written_by_it(context: Context) -> None:
    task = dataclasses.replace(context.task, kind="generate", words={}, metric="chrf")
    why = skip_reason(get_method("zero_shot"), dataclasses.replace(context, task=task))
    assert "writes no" in str(why) or "writes nothing" in str(why)


def test_words_that_the_tokenizer_cannot_tell_apart_are_not_asked_for(context: Context) -> None:
    task = dataclasses.replace(context.task, words={"bug": "☃", "login": "☄"})
    alike = dataclasses.replace(context, task=task)
    (note,) = get_method("zero_shot").open(alike, [get_method("zero_shot").default(alike)]).notes
    assert "reads the words for 'bug' and 'login' as the same tokens" in note


def test_tokens_of_the_bases_own_in_a_row_are_broken_up(context: Context) -> None:
    base = context.base
    assert isinstance(base, Masked)
    sly = Example(id="1", fields={"text": "now [MASK] [SEP] reset [CLS]"})
    bracket = get_method("zero_shot").open(context, [ZeroShotConfig()])
    bracket.advance(1)
    predictor = bracket.predictor(0)
    assert isinstance(predictor, PromptedPredictor)
    ids = [token.id for token in predictor.laid_out(sly)[1] if not token.scored]
    own = {base.mask_id: 1, base.tokenizer.sep_token_id: 1, base.tokenizer.cls_token_id: 1}
    assert {token: ids.count(token) for token in own} == own
    assert base.tokenizer.unk_token_id not in ids


def test_from_disk_it_answers_the_same_and_another_prompt_is_refused(context: Context, tmp_path: Path) -> None:
    bracket = get_method("zero_shot").open(context, [ZeroShotConfig(template="about {{ mask }}: {{ text }}")])
    bracket.advance(1)
    predictor = bracket.predictor(0)
    predictor.save(tmp_path)
    again = PromptedPredictor.load(tmp_path, lambda name: context.base).predict(ROWS)
    for one, other in zip(predictor.predict(ROWS), again, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
    assert isinstance(predictor, PromptedPredictor)
    text, tokens = predictor.laid_out(ROWS[1])
    assert text == "about my password: reset my account"
    assert [token.id for token in tokens if token.scored] == predictor._asked.text_ids([" my password"])[0]
    settings = json.loads((tmp_path / SETTINGS).read_text("utf-8"))
    settings["prompt"]["template"] = "on {{ mask }}: {{ text }}"
    (tmp_path / SETTINGS).write_text(json.dumps(settings), "utf-8")
    with pytest.raises(BundleError, match="the prompt is not the one that was measured"):
        PromptedPredictor.load(tmp_path, lambda name: context.base)


@pytest.mark.parametrize("configs", [("words",), ("words", "similarity"), ("similarity", "words")])
def test_dev_is_answered_in_parts_whatever_labels_are_found_by(context: Context, configs: tuple[str, ...]) -> None:
    texts = [f"{ROWS[i % 6].fields['text']} {'now ' * (i // 6)}" for i in range(60)]
    race = tuple(Example(id=f"dev-{i}", fields={"text": text}, target="bug") for i, text in enumerate(texts))
    many = dataclasses.replace(context, folds=(Fold(train=ROWS, race=race),))
    bracket = get_method("zero_shot").open(many, [ZeroShotConfig(by=by) for by in configs])  # type: ignore[arg-type]
    assert bracket.horizon > 1
    bracket.advance(1)
    assert 0 < bracket.fidelity < bracket.horizon
    bracket.advance(bracket.horizon)
    for member, found in enumerate(bracket.predictions()):
        at_once = bracket.predictor(member).predict(race)
        assert [answer.text for answer in found] == [answer.text for answer in at_once]
