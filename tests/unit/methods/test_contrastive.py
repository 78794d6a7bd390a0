"""The contrastive rung: it tells apart what the base does not, answers as it was scored, and costs what it says."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Context, Fold, proposed
from tunewise.methods.contrastive import LEAST_STEPS, MOST_STEPS, Contrastive, ContrastiveConfig
from tunewise.methods.linear_probe import fit_head
from tunewise.types import Example

WORDS = {"up": ["good", "charm", "great"], "down": ["bad", "dull", "worst"]}
PLAIN = ["film", "product", "card", "order", "account", "payment"]


def examples(count, seed):
    rng = np.random.default_rng(seed)
    labels = [list(WORDS)[i % 2] for i in range(count)]
    texts = [
        " ".join(rng.permutation([rng.choice(WORDS[label]), *rng.choice(PLAIN, size=rng.integers(2, 6))]))
        for label in labels
    ]
    return tuple(
        Example(id=f"{seed}-{i}", fields={"text": text}, target=label)
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    )


def context_of(base, **options):
    train, race = examples(20, 0), examples(30, 1)
    plain = {
        "task": Task(data=DataConfig(train="x"), dtype="float32"),
        "labels": ("down", "up"),
        "base": base,
        "folds": (Fold(train=train, race=race),),
        "features": lambda rows: base.features([row.texts for row in rows], "keep_start"),
        "work": 10**9,
        "seed": 11,
        "train_tokens": base.encode([row.texts for row in train], "keep_start").tokens,
        "race_tokens": base.encode([row.texts for row in race], "keep_start").tokens,
    }
    return Context(**{**plain, **options})


@pytest.fixture
def context(tiny):
    return context_of(tiny)


def quick(**values):
    return ContrastiveConfig(**{"epochs": 6.0, "batch_size": 8, "learning_rate": 2e-3, **values})


def right(answers, rows):
    return np.mean([answer.text == row.target for answer, row in zip(answers, rows, strict=True)])


def test_tuning_on_pairs_tells_apart_what_the_frozen_base_does_not(context):
    fold = Fold(train=examples(200, 0), race=examples(60, 1))
    feature_EH, target_E = context.features(fold.train), context.target_indices(fold.train)
    weight_LH, bias_L, _ = fit_head(feature_EH, target_E, 2, 10.0)
    probe = (context.features(fold.race) @ weight_LH.T + bias_L).argmax(axis=1)
    frozen = np.mean(probe == context.target_indices(fold.race))
    config = quick(batch_size=16, learning_rate=3e-3, epochs=8.0)
    bracket = Contrastive().open(dataclasses.replace(context, folds=(fold,)), [config])
    bracket.advance(bracket.horizon)
    tuned = right(bracket.predictor(0).predict(fold.race), fold.race)
    assert tuned > frozen
    assert tuned > 0.95


def test_predictors_answer_as_the_bracket_did(context):
    bracket = Contrastive().open(context, [quick(), quick(loss="supcon", c=10.0)])
    assert isinstance(bracket, Bracket)
    for fidelity in (1, bracket.horizon):  # before anything was measured, and after
        bracket.advance(fidelity)
        for member in range(2):
            answers = bracket.predictor(member).predict(context.fold.race)
            for answer, seen in zip(answers, bracket.predictions()[member], strict=True):
                assert answer.scores == pytest.approx(seen.scores, abs=1e-5)


def test_every_weight_moves_and_the_base_does_not(context):
    before = {name: tensor.clone() for name, tensor in context.base.model.state_dict().items()}
    bracket = Contrastive().open(context, [quick()])
    bracket.advance(bracket.horizon)
    own = dict(bracket.predictor(0).encoder.model.named_parameters())
    still = [name for name, tensor in own.items() if torch.equal(tensor, before[name])]
    # a key's bias adds the same to every score of a row, so that its gradient is rounding only
    assert all("key.bias" in name for name in still)
    after = context.base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_predictor_reads_vectors_of_length_1(context):
    bracket = Contrastive().open(context, [quick()])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    feature_EH = predictor.encoder.features([row.texts for row in context.fold.race], "keep_start")
    np.testing.assert_allclose(np.linalg.norm(feature_EH, axis=1), 1.0, atol=1e-5)
    assert predictor.unit_length


def test_a_bracket_resumes_exactly(context):
    configs = [quick(), quick(learning_rate=1e-3)]
    straight = Contrastive().open(context, configs)
    straight.advance(7)
    straight.keep([1])
    tensors, meta = straight.state()
    resumed = Contrastive().open(context, configs)
    resumed.restore(tensors, json.loads(json.dumps(meta, allow_nan=False)))
    for bracket in (straight, resumed):
        bracket.advance(bracket.horizon)
    np.testing.assert_array_equal(straight.losses(), resumed.losses())


def test_candidates_of_one_seed_read_the_same_rows(context):
    bracket = Contrastive().open(context, [quick(), quick(learning_rate=1e-3)])
    first, second = (loop.batches for loop in bracket.loops)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("batch_size", [8, 64])
def test_the_work_that_was_stated_is_the_work_that_is_spent(context, batch_size):
    config = quick(batch_size=batch_size, epochs=9.0)
    bracket = Contrastive().open(context, [config])
    loop = bracket.loops[0]
    loop.plan = dataclasses.replace(loop.plan, patience=loop.horizon)  # a member that stops early spends less
    spent = bracket.advance(bracket.horizon)
    assert Contrastive().cost(context, config).work == pytest.approx(spent, rel=0.05)


def test_an_answer_before_the_first_evaluation_takes_the_rows_of_the_head_too(context):
    bracket = Contrastive().open(context, [quick()])
    (loop,) = bracket.loops
    assert not bracket.remembers(0)
    assert bracket.reading_work(0, 100) == 100 + loop.head_rows.tokens.tokens
    bracket.advance(bracket.horizon)
    assert bracket.remembers(0)
    assert bracket.reading_work(0, 100) == 100


def test_a_refit_on_all_rows_ends_in_a_predictor(context):
    whole = dataclasses.replace(context, folds=(Fold(train=examples(200, 0), race=()),))
    bracket = Contrastive().open(whole, [quick(batch_size=16, learning_rate=3e-3, epochs=8.0)])
    bracket.advance(bracket.horizon)
    rows = examples(30, 1)
    assert right(bracket.predictor(0).predict(rows), rows) > 0.9


@pytest.mark.parametrize(("rows", "steps"), [(10, LEAST_STEPS), (20_000, MOST_STEPS)])
def test_the_default_is_bounded_whatever_the_data(context, rows, steps):
    some = dataclasses.replace(
        context, folds=(Fold(train=(examples(10, 0) * (rows // 10)), race=context.fold.race),), train_tokens=8 * rows
    )
    assert Contrastive().default(some).steps(rows) == steps


def test_the_default_compares_with_the_nearest_where_labels_are_many(context):
    many = dataclasses.replace(context, labels=("down", "up", *(f"label {i}" for i in range(30))))
    assert Contrastive().default(many).loss == "supcon"
    assert Contrastive().default(many).batch_size > Contrastive().default(context).batch_size
    assert Contrastive().default(context).loss == "cosine"


def test_the_default_leaves_the_search_its_share(context):
    method = Contrastive()
    rows = examples(10, 0) * 40
    rich = dataclasses.replace(context, folds=(Fold(train=rows, race=context.fold.race),), train_tokens=8 * len(rows))
    tight = dataclasses.replace(rich, work=2 * method.cost(rich, method.default(rich)).work)
    assert method.cost(tight, method.default(tight)).work <= method.default_share * tight.work
    assert LEAST_STEPS < method.default(tight).steps(len(rows)) < method.default(rich).steps(len(rows))
    poor = dataclasses.replace(rich, work=1)
    assert method.default(poor).steps(len(rows)) == LEAST_STEPS  # fewer are no candidate at all


def test_a_short_default_takes_longer_steps(context):
    rows = examples(10, 0) * 40
    long = dataclasses.replace(context, folds=(Fold(train=rows, race=context.fold.race),), train_tokens=8 * len(rows))
    short, long_one = Contrastive().default(context), Contrastive().default(long)
    assert short.learning_rate == 2 * long_one.learning_rate == 2 * ContrastiveConfig.learning_rate


def test_proposals_start_from_the_default(context):
    class Space:
        def ask(self, parameters, n):
            assert next(iter(parameters)) == "learning_rate"
            return [{"learning_rate": 1e-5, "loss": "supcon"}, {}]

    (found,) = proposed(Contrastive(), context, Space(), np.random.default_rng(0), 2)
    assert found == dataclasses.replace(Contrastive().default(context), learning_rate=1e-5, loss="supcon")


def test_rows_without_a_pair_are_skipped_with_the_reason(context):
    one_each = dataclasses.replace(context, folds=(Fold(train=examples(2, 0), race=context.fold.race),))
    said = "contrastive: no label has two training rows; there is no pair to bring together."
    assert Contrastive().skip(one_each) == said
    alike = dataclasses.replace(context, folds=(Fold(train=examples(20, 0)[::2], race=context.fold.race),))
    assert "there is nothing to tell apart" in Contrastive().skip(alike)
    assert Contrastive().skip(context) is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"batch_size": 3}, "contrastive: `batch_size` must be 4 or more, two rows of two labels, got 3."),
        ({"temperature": 0.0}, "contrastive: `temperature` must be a finite number above 0, got 0.0."),
        ({"c": float("inf")}, "contrastive: `c` must be a finite number above 0, got inf."),
        ({"label_smoothing": 0.1}, "got 0.1. Leave it at 0.0."),
        ({"head_init": "zeros"}, "contrastive: `head_init` has no use where pairs are compared"),
        ({"loss": "triplet"}, "contrastive: `loss` must be 'cosine' or 'supcon', got 'triplet'."),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as refused:
        ContrastiveConfig(**values)
    assert sentence in str(refused.value)
