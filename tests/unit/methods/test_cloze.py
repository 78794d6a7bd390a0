"""Training from the label words on: at its first step a candidate answers as the base would."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold, skip_reason
from tunewise.models.causal import Causal
from tunewise.models.load import load_base
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import ARCHITECTURES as SEQ2SEQ
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.predictors.bundle import load_predictor
from tunewise.types import Example

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


@pytest.fixture(scope="module", params=["llama", "gpt2", "phi", "t5", "bart"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Context:
    make = tiny_seq2seq if request.param in SEQ2SEQ else tiny_causal
    folder: Path = make(tmp_path_factory.mktemp("base") / request.param, architecture=request.param)
    base = load_base(str(folder), device="cpu", dtype="float32")
    task = Task(
        data=DataConfig(train="in-memory.csv"),
        models=(str(folder),),
        dtype="float32",
        budget=Budget(work=10**9),
        truncation="keep_start",
        words=WORDS,
        instruction="what is it about",
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


def test_before_the_first_step_it_has_the_bases_own_logits_of_the_words(context: Context) -> None:
    method, base = get_method("cloze"), context.base
    assert isinstance(base, Causal | Seq2Seq)
    config = dataclasses.replace(method.default(context), epochs=1.0)
    bracket = method.open(context, [config])
    found = bracket.predictions()[0]
    for row, answer in zip(context.fold.race, found, strict=True):
        text = f"what is it about\n\n{row.fields['text']}\nAnswer:"
        ids = torch.tensor([base.tokenizer(text)["input_ids"]])
        if isinstance(base, Seq2Seq):
            said = torch.tensor([base.lead_ids])
            first = [base.text_ids([WORDS[label]])[0][0] for label in LABELS]
            inputs = {"input_ids": ids, "decoder_input_ids": said}
        else:
            before = ids.shape[1] - len(base.start_ids)
            first = [base.text_ids([f"{text} {WORDS[label]}"])[0][before] for label in LABELS]
            inputs = {"input_ids": ids}
        with torch.no_grad():
            logits = base.whole(**inputs).logits[0, -1, first].double()
        expected = torch.softmax(logits, dim=-1).tolist()
        assert list((answer.scores or {}).values()) == pytest.approx(expected, abs=1e-4)


def test_it_learns_and_its_predictor_answers_as_the_member_did(context: Context) -> None:
    method = get_method("cloze")
    bracket = method.open(context, [dataclasses.replace(method.default(context), epochs=12.0, batch_size=12)])
    before = bracket.losses().mean()
    bracket.advance(bracket.horizon)
    assert bracket.losses().mean() < 0.8 * before
    answers = bracket.predictor(0).predict(context.fold.race)
    for one, other in zip(answers, bracket.predictions()[0], strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


@pytest.mark.parametrize("changes", [{"weights": "full"}, {"words": "searched", "demonstrations": 1}])
def test_what_is_trained_and_said_can_vary_and_is_served_as_measured(context: Context, changes, tmp_path) -> None:
    method = get_method("cloze")
    config = dataclasses.replace(method.default(context), epochs=6.0, batch_size=12, **changes)
    bracket = method.open(context, [config])
    before = bracket.losses().mean()
    bracket.advance(bracket.horizon)
    assert bracket.losses().mean() < before
    predictor = bracket.predictor(0)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert (tmp_path / "adapter").is_dir() == (config.weights == "lora")
    for answers in (predictor.predict(context.fold.race), loaded.predict(context.fold.race)):
        for one, other in zip(answers, bracket.predictions()[0], strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_its_cost_counts_the_tokens_of_the_prompts(context: Context) -> None:
    method = get_method("cloze")
    config = method.default(context)
    longer = dataclasses.replace(context, task=dataclasses.replace(context.task, instruction="what is it about " * 6))
    assert method.cost(longer, config).work > 1.5 * method.cost(context, config).work


def test_an_instruction_that_leaves_no_room_skips_the_rung(context: Context) -> None:
    task = dataclasses.replace(context.task, instruction="what is it about " * 200)
    for rung in ("cloze", "zero_shot", "few_shot"):
        why = skip_reason(get_method(rung), dataclasses.replace(context, task=task))
        assert "the instruction and what leads to the answer alone take more" in str(why), rung


def test_numbers_as_labels_are_not_asked_for(context: Context) -> None:
    numbers = dataclasses.replace(context, labels=("1", "2"), task=dataclasses.replace(context.task, words={}))
    assert "give each label `words`" in str(skip_reason(get_method("cloze"), numbers))


def test_the_lower_blocks_are_computed_once_whatever_candidates_read(context: Context) -> None:
    if context.base.info.family == "seq2seq":
        pytest.skip("encoder and decoder are two lists of blocks, and `top_layers` is refused")
    method = get_method("cloze")
    plain = dataclasses.replace(method.default(context), epochs=1.0, top_layers=1)
    shown = dataclasses.replace(plain, demonstrations=1)
    bracket = method.open(context, [plain, shown])
    (note,) = [note for note in bracket.notes if "computed once" in note]
    read = {
        ids.tobytes() for own in bracket._bench_of.values() for rows in (own.train, own.race) for ids in rows.tokens.ids
    }
    assert f"for {len(read)} sequences" in note
