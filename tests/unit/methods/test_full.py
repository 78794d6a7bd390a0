"""The full rung: every weight moves, the shared base does not, predictors answer as the bracket did."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Context, Fold
from tunewise.methods.full import Full, FullConfig
from tunewise.types import Example

WORDS = {"up": ["good", "charm", "great"], "down": ["bad", "dull", "worst"]}


def examples(count, seed):
    rng = np.random.default_rng(seed)
    labels = [list(WORDS)[int(rng.integers(2))] for _ in range(count)]
    texts = [" ".join(rng.choice(WORDS[label], size=rng.integers(1, 5))) for label in labels]
    return tuple(
        Example(id=str(i), fields={"text": text}, target=label)
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    )


@pytest.fixture
def context(tiny):
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32"),
        labels=("down", "up"),
        base=tiny,
        folds=(Fold(train=examples(40, 0), race=examples(15, 1)),),
        features=lambda rows: tiny.features([row.texts for row in rows], "keep_start"),
        work=10**9,
        seed=11,
        train_tokens=400,
        race_tokens=150,
    )


def quick(**values):
    return FullConfig(**{"epochs": 2.0, "batch_size": 8, "learning_rate": 3e-3, **values})


def test_predictors_answer_as_the_bracket_did(context):
    bracket = Full().open(context, [quick(), quick(learning_rate=1e-3, head_init="zeros")])
    assert isinstance(bracket, Bracket)
    bracket.advance(bracket.horizon)
    for member in range(2):
        answers = bracket.predictor(member).predict(context.fold.race)
        for answer, seen in zip(answers, bracket.predictions()[member], strict=True):
            assert answer.scores == pytest.approx(seen.scores, abs=1e-5)


def test_the_base_stays_and_the_member_moves(context):
    before = {name: tensor.clone() for name, tensor in context.base.model.state_dict().items()}
    bracket = Full().open(context, [quick()])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    predictor.predict(context.fold.race)
    after = context.base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    own = dict(predictor.encoder.model.named_parameters())
    moved = [name for name, tensor in own.items() if not torch.equal(tensor, before[name])]
    assert len(moved) == len(own)
    table = own["embeddings.word_embeddings.weight"]
    unseen = (table == before["embeddings.word_embeddings.weight"]).all(dim=1)
    assert unseen.any(), "rows of tokens that never occur stay"


def test_texts_with_words_never_seen_in_training_are_answered(context):
    bracket = Full().open(context, [quick()])
    bracket.advance(2)
    strange = Example(id="x", fields={"text": "please refund the money for this application"})
    (answer,) = bracket.predictor(0).predict([strange])
    assert sum(answer.scores.values()) == pytest.approx(1.0)


def test_a_bracket_resumes_exactly(context):
    configs = [quick(), quick(learning_rate=1e-3)]
    straight = Full().open(context, configs)
    straight.advance(4)
    straight.keep([1])
    tensors, meta = straight.state()
    resumed = Full().open(context, configs)
    resumed.restore(tensors, json.loads(json.dumps(meta, allow_nan=False)))
    for bracket in (straight, resumed):
        bracket.advance(10)
    np.testing.assert_array_equal(straight.losses(), resumed.losses())


def test_parameters_and_cost_count_the_whole_base(context):
    bracket = Full().open(context, [quick()])
    whole = sum(parameter.numel() for parameter in context.base.model.parameters()) + 2 * 33
    assert bracket.trainable_parameters(0) == whole
    cost = Full().cost(context, quick())
    assert cost.trainable_parameters == pytest.approx(whole, rel=0.1)
    assert cost.work == 2 * 3 * 400 + 8 * 150


def test_values_that_cannot_be_meant_are_refused():
    with pytest.raises(ConfigError, match=r"full: `learning_rate` must be a finite number above 0, got -1.0."):
        FullConfig(learning_rate=-1.0)


def test_proposals_vary_the_rate_first(context):
    class Space:
        def ask(self, parameters, n):
            assert next(iter(parameters)) == "learning_rate"
            return [{"learning_rate": 1e-5}] * n

    (proposed,) = Full().propose(context, Space(), np.random.default_rng(0), 1)
    assert proposed == dataclasses.replace(Full().default(context), learning_rate=1e-5)
