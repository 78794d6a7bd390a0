"""Training a base that fills gaps from its own words on: what it starts at, what is trained, and what is served."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForMaskedLM

from tunewise.config import Budget, DataConfig, Task
from tunewise.errors import BundleError, ConfigError
from tunewise.methods import get_method
from tunewise.methods.base import Bracket, Context, Fold, skip_reason
from tunewise.methods.cloze import ClozeConfig
from tunewise.models.load import load_base
from tunewise.models.masked import Masked
from tunewise.models.tiny import tiny_encoder, tiny_masked
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.bundle import load_predictor
from tunewise.predictors.prompted import fitted_prompts, prompt_tokens
from tunewise.prompts.prompt import joined
from tunewise.search.space import OptunaSpace
from tunewise.types import NEXT, Example, Prediction

LABELS = ("bug", "login", "price")
WORDS = {"bug": "crashes", "login": "password", "price": "order"}


def rows(n: int, seed: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    own = {"bug": ["application", "report"], "login": ["reset", "account"], "price": ["refund", "money"]}
    found = []
    for i in range(n):
        label = LABELS[i % 3]
        text = " ".join([str(rng.choice(own[label])), *rng.choice(["the", "my", "please"], size=3)])
        found.append(Example(id=f"{seed}-{i}", fields={"text": text}, target=label))
    return tuple(found)


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
    train, race = rows(36, 1), rows(18, 2)
    return Context(
        task=task,
        labels=LABELS,
        base=base,
        folds=(Fold(train=train, race=race),),
        features=lambda examples: base.features([e.texts for e in examples], "keep_start"),
        work=10**9,
        seed=3,
        train_tokens=base.encode([e.texts for e in train], "keep_start").tokens,
        race_tokens=base.encode([e.texts for e in race], "keep_start").tokens,
    )


@pytest.fixture(scope="module", params=["bert", "electra", "modernbert"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Context:
    return context_of(tiny_masked(tmp_path_factory.mktemp("base") / request.param, architecture=request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Context:
    return context_of(tiny_masked(tmp_path_factory.mktemp("bert")))


def short(context: Context, **changes: object) -> ClozeConfig:
    config = dataclasses.replace(get_method("cloze").default(context), epochs=2.0, batch_size=12)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def trained(context: Context, config: ClozeConfig) -> Bracket:
    bracket = get_method("cloze").open(context, [config])
    bracket.advance(bracket.horizon)
    return bracket


def same(left: list[Prediction], right: list[Prediction], tolerance: float = 1e-5) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=tolerance)


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("prompt", [{}, {"template": "about {{ mask }}: {{ text }}"}])
def test_before_the_first_step_it_answers_as_zero_shot_does(context: Context, weights: str, prompt) -> None:
    asked = get_method("zero_shot")
    first = asked.open(context, [dataclasses.replace(asked.default(context), **prompt)])
    first.advance(first.horizon)
    bracket = get_method("cloze").open(context, [short(context, weights=weights, **prompt)])
    same(bracket.predictions()[0], first.predictions()[0])


def test_words_of_several_tokens_start_at_the_mean_of_their_logits(bert: Context) -> None:
    words = {"bug": "crashes", "login": "my password", "price": "refund the money"}
    context = dataclasses.replace(bert, task=dataclasses.replace(bert.task, words=words))
    bracket = get_method("cloze").open(context, [short(context)])
    assert "words of several tokens, for 2 of 3 labels, start at their mean" in " ".join(bracket.notes)
    base = context.base
    assert isinstance(base, Masked)
    ids = base.text_ids([f" {each}" for each in words.values()])
    for row, answer in zip(context.fold.race, bracket.predictions()[0], strict=True):
        read = base.tokenizer(f"{row.fields['text']}\nAnswer: [MASK].", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            (logits_V,) = base.whole(input_ids=read).logits[0][read[0] == base.mask_id].double()
        expected = torch.softmax(torch.stack([logits_V[own].mean() for own in ids]), -1).tolist()
        assert list((answer.scores or {}).values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_it_learns_and_is_served_as_it_was_measured(context: Context, weights: str, tmp_path: Path) -> None:
    config = short(context, weights=weights, epochs=12.0, learning_rate=1e-2)
    method = get_method("cloze")
    bracket = method.open(context, [config])
    before = bracket.losses().mean()
    bracket.advance(bracket.horizon)
    assert bracket.losses().mean() < 0.8 * before
    predictor = bracket.predictor(0)
    assert predictor.base is context.base
    same(predictor.predict(context.fold.race), bracket.predictions()[0], 1e-4)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    same(loaded.predict(context.fold.race), predictor.predict(context.fold.race))
    assert (tmp_path / "adapter").is_dir() == (weights == "lora")


def test_all_weights_take_the_layers_of_the_mlm_head_along_and_low_rank_updates_leave_them(bert: Context) -> None:
    assert isinstance(bert.base, Masked)
    before = bert.base.at_answer().model.state_dict()
    inside = "cls.predictions.transform.dense.weight"
    whole, low = (trained(bert, short(bert, weights=each)).predictor(0) for each in ("full", "lora"))
    assert isinstance(whole, AdaptedPredictor)
    assert isinstance(low, AdaptedPredictor)
    assert not torch.equal(whole.tensors[inside], before[inside])
    assert not any("predictions" in name for name in low.tensors)
    assert before.keys() == bert.base.at_answer().model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_peft_loads_the_update_on_the_model_with_its_mlm_head(context: Context, tmp_path: Path) -> None:
    predictor = trained(context, short(context)).predictor(0)
    assert isinstance(predictor, AdaptedPredictor)
    predictor.save(tmp_path)
    assert isinstance(context.base, Masked)
    plain = AutoModelForMaskedLM.from_pretrained(context.base.info.path).eval()
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert predictor.prompt is not None
    tokens = prompt_tokens(context.base, predictor.prompt, context.fold.race[:3], "keep_start")
    for ids, vector_H in zip(tokens.ids, predictor.encoder.features_of(tokens), strict=True):
        with torch.no_grad():
            logits_V = theirs(input_ids=torch.as_tensor(ids)[None]).logits[
                0, np.flatnonzero(ids == context.base.mask_id)
            ]
            ours_V = context.base.decoder(torch.as_tensor(vector_H))
        np.testing.assert_allclose(ours_V, logits_V[0], atol=1e-4)


def test_members_trained_together_equal_those_trained_alone(bert: Context) -> None:
    configs = [short(bert, learning_rate=rate, demonstrations=1) for rate in (1e-3, 3e-3)]
    together = get_method("cloze").open(dataclasses.replace(bert, layout=[[0, 1]]), configs)
    together.advance(together.horizon)
    alone = [trained(bert, config).losses()[0] for config in configs]
    np.testing.assert_allclose(together.losses(), alone, rtol=1e-4, atol=1e-5)


def test_all_weights_learn_at_a_tenth_of_the_rate() -> None:
    low, whole = (ClozeConfig(weights=each).settings.learning_rate for each in ("lora", "full"))  # type: ignore[arg-type]
    assert whole == pytest.approx(low / 10)


def test_one_row_of_each_label_is_shown_but_never_to_itself(bert: Context) -> None:
    bracket = trained(bert, short(bert, demonstrations=1))
    predictor = bracket.predictor(0)
    assert isinstance(predictor, AdaptedPredictor)
    prompt = predictor.prompt
    assert prompt is not None
    assert [shown.answer for shown in prompt.demonstrations] == list(WORDS.values())
    (parts,), _ = fitted_prompts(bert.base, prompt, bert.fold.race[:1], "keep_start", 60)  # type: ignore[arg-type]
    assert [part.split("\n")[0] for part in joined(parts).split(NEXT)[1:]] == [
        shown.fields["text"] for shown in prompt.demonstrations
    ]
    same(predictor.predict(bert.fold.race), bracket.predictions()[0], 1e-4)
    bench = get_method("cloze").bench(  # type: ignore[attr-defined]
        dataclasses.replace(bert, base=bert.base.at_answer()),
        short(bert, demonstrations=1),
        0,  # type: ignore[attr-defined]
    )
    own = {shown.fields["text"]: shown.answer for shown in prompt.demonstrations}
    found = 0
    for row, ids in zip(bert.fold.train, bench.train.tokens.ids, strict=True):
        _, *shown_with = bert.base.tokenizer.decode(ids).split("[SEP]")[:-1]
        texts = [text.split(" a ##n")[0].strip() for text in shown_with]
        assert row.fields["text"] not in texts
        assert len(texts) == 3
        found += row.fields["text"] in own
    assert found >= 3


def test_with_too_many_labels_for_the_window_none_are_shown(bert: Context) -> None:
    method = get_method("cloze")
    space = OptunaSpace(0, [])
    rng = np.random.default_rng(0)
    base = copy.copy(bert.base)
    base.info = dataclasses.replace(base.info, max_tokens=48)
    narrow = dataclasses.replace(bert, base=base)
    proposed = method.propose(bert, space, rng, 8)
    assert {config.demonstrations for config in proposed} == {0, 1}
    assert {config.dropout for config in proposed if config.weights == "full"} == {0.0}
    assert {config.demonstrations for config in method.propose(narrow, space, rng, 8)} == {0}


def test_words_that_were_searched_are_served_and_their_search_is_paid(bert: Context, tmp_path: Path) -> None:
    method = get_method("cloze")
    given, searched = short(bert), short(bert, words="searched")
    extra = method.cost(bert, searched).work - method.cost(bert, given).work
    assert extra > 0
    one, other = (method.open(bert, [config]) for config in (given, searched))
    assert "words found on" in " ".join(other.notes)
    spent = [bracket.advance(2) for bracket in (one, other)]
    assert spent[1] - spent[0] == pytest.approx(extra, rel=0.1)
    assert other.advance(3) == one.advance(3)
    predictor = other.predictor(0)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: bert.base)
    assert isinstance(loaded, AdaptedPredictor)
    assert loaded.prompt is not None
    assert loaded.prompt.words != WORDS
    assert list(loaded.prompt.words) == list(LABELS)
    same(loaded.predict(bert.fold.race), other.predictions()[0], 1e-4)


def test_a_prompt_that_somebody_changed_is_refused(bert: Context, tmp_path: Path) -> None:
    trained(bert, short(bert)).predictor(0).save(tmp_path)
    settings = json.loads((tmp_path / "adapted.json").read_text("utf-8"))
    settings["prompt"]["lead"] = "\nSo:"
    (tmp_path / "adapted.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(BundleError, match="the prompt is not the one that was trained with"):
        load_predictor(tmp_path, lambda name: bert.base)


def test_only_the_top_blocks_can_be_trained(bert: Context) -> None:
    for weights in ("lora", "full"):
        config = short(bert, weights=weights, top_layers=1)
        bracket = trained(bert, config)
        assert method_work(bert, config) < method_work(bert, short(bert, weights=weights))
        same(bracket.predictor(0).predict(bert.fold.race), bracket.predictions()[0], 1e-4)


def method_work(context: Context, config: ClozeConfig) -> int:
    return get_method("cloze").cost(context, config).work


def test_a_base_without_its_head_skips_the_rung_and_says_so(tmp_path: Path) -> None:
    why = skip_reason(get_method("cloze"), context_of(tiny_encoder(tmp_path)))
    assert "hold no weights of its head for masked words" in str(why)


def test_words_that_cannot_be_told_apart_skip_the_rung_and_say_so(bert: Context) -> None:
    alike = dataclasses.replace(bert, task=dataclasses.replace(bert.task, words={"bug": "☃", "login": "☄"}))
    why = skip_reason(get_method("cloze"), alike)
    assert "reads the words for 'bug' and 'login' as the same tokens" in str(why)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": "half"}, r"`weights` is 'lora' or 'full', got 'half'"),
        ({"words": "mine"}, r"`words` is 'given' or 'searched', got 'mine'"),
        ({"demonstrations": 2}, r"`demonstrations` is 0 or 1 of each label, got 2"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ClozeConfig(**changes)  # type: ignore[arg-type]
