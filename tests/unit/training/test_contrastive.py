"""Pairs of a step, the sampler that draws its rows, and the loop with a fitted head."""

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tunewise.models.encoder import Encoder
from tunewise.models.tree import shared_tree
from tunewise.training.contrastive import (
    ContrastiveLoop,
    Deck,
    Pairs,
    cosine_loss,
    pair_batches,
    stratified,
    supervised_contrastive_loss,
)
from tunewise.training.labels import Labels, batch_of
from tunewise.training.loop import Plan, Settings
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.training.stopping import Course
from tunewise.training.whole import FullPopulation

WORDS = ["card", "stolen", "payment", "pending", "reset", "password", "film", "charm", "dull", "refund", "crash"]
LABELS = 3


class DoubleEncoder(Encoder):
    """Pools in float64, so that rounding does not hide a difference."""

    def pool_sequences(self, hidden_STH, batch):
        weight_ST = batch.attention_mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def exact(tiny):
    base = copy.copy(tiny)
    base.__class__ = DoubleEncoder
    base.model = shared_tree(tiny.model, torch.float64)
    return base


def rows_of(base, count, seed, policy="keep_start", longest=12):
    rng = np.random.default_rng(seed)
    texts = [(" ".join(rng.choice(WORDS, size=rng.integers(1, longest))),) for _ in range(count)]
    return Rows(base.encode(texts, policy), np.arange(count) % LABELS)


def plain_head(feature_EH, target_E):
    model = LogisticRegression(C=1.0, max_iter=200, tol=1e-8).fit(feature_EH, target_E)
    return model.coef_, model.intercept_


PLAN = Plan(epochs=4, batch_size=8, seed=3, evaluations=4)


@pytest.fixture
def build(exact):
    def loop(plan=PLAN, train=None, race=None, pairs=None, fit_head=plain_head, rate=3e-3, base=exact, **options):
        train = rows_of(base, 21, seed=0) if train is None else train
        race = rows_of(base, 12, seed=1) if race is None else race
        used = np.unique(np.concatenate([*train.tokens.ids, *race.tokens.ids]))
        population = FullPopulation(
            base, HeadStart(labels=LABELS), used_tokens=used, dtype=base.dtype, unit_length=True, **options
        )
        settings = Settings(learning_rate=rate, weight_decay=0.01)
        return ContrastiveLoop(
            population, Labels(train, race, LABELS), plan, settings, pairs=pairs or Pairs(), fit_head=fit_head
        )

    return loop


def digest(loop):
    tensors, meta = loop.state()
    text = json.dumps(meta, sort_keys=True)
    for name in sorted(tensors):
        text += name + hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest()
    return hashlib.sha256(text.encode()).hexdigest()


# --- losses


def test_the_cosine_loss_weighs_both_kinds_of_pairs_the_same():
    vector_RH = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    target_R = torch.tensor([0, 0, 1])
    # one pair of a label with cosine 0.6; two across, with 0 and 0.8
    expected = ((1 - 0.6) ** 2 + (0.0**2 + 0.8**2) / 2) / 2
    assert float(Pairs().of(vector_RH, target_R)) == pytest.approx(expected)


def test_a_step_without_pairs_of_a_label_still_pushes_apart():
    cosine_RR = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert float(cosine_loss(cosine_RR, torch.eye(2, dtype=torch.bool))) == pytest.approx(0.25)


def test_the_supervised_contrastive_loss_is_the_one_of_the_paper():
    rng = np.random.default_rng(0)
    vector_RH = rng.normal(size=(5, 4))
    vector_RH /= np.linalg.norm(vector_RH, axis=1, keepdims=True)
    target_R = np.array([0, 0, 1, 1, 2])
    terms = []
    for i in range(5):
        others = [a for a in range(5) if a != i]
        partners = [p for p in others if target_R[p] == target_R[i]]
        total = sum(np.exp(vector_RH[i] @ vector_RH[a] / 0.2) for a in others)
        if partners:
            terms.append(-np.mean([np.log(np.exp(vector_RH[i] @ vector_RH[p] / 0.2) / total) for p in partners]))
    pairs = Pairs(loss="supcon", temperature=0.2)
    assert len(terms) == 4
    assert float(pairs.of(torch.tensor(vector_RH), torch.tensor(target_R))) == pytest.approx(np.mean(terms))


def test_a_row_without_a_partner_gives_finite_gradients():
    score_RR = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    target_R = torch.tensor([0, 0, 1])
    supervised_contrastive_loss(score_RR, target_R[:, None] == target_R).backward()
    assert bool(torch.isfinite(score_RR.grad).all())


# --- rows of a step


def test_a_deck_gives_every_item_before_it_gives_one_again():
    deck = Deck(np.arange(7), np.random.default_rng(0))
    drawn = [item for _ in range(7) for item in deck.draw(3)]
    assert np.bincount(drawn).tolist() == [3] * 7
    assert all(len(set(drawn[at : at + 3])) == 3 for at in range(0, 21, 3))


@pytest.mark.parametrize(("counts", "batch"), [((40, 40), 16), ((200, 9), 16), ((5,) * 30, 16), ((8, 8), 64)])
def test_every_step_holds_labels_evenly_with_two_rows_of_each(counts, batch):
    target_E = np.repeat(np.arange(len(counts)), counts)
    steps = pair_batches(target_E, batch_size=batch, steps=50, seed=1)
    kinds = min(len(counts), batch // 2)
    for rows in steps:
        assert len(set(rows.tolist())) == len(rows) <= batch
        held = np.bincount(target_E[rows], minlength=len(counts))
        assert (held > 0).sum() == kinds
        assert held[held > 0].min() >= 2
    assert {len(rows) for rows in steps} == {min(batch, sum(counts))}
    assert set(np.concatenate(steps).tolist()) == set(range(len(target_E))), "every row is read in time"
    read = np.bincount(np.concatenate([target_E[rows] for rows in steps]))
    small = min(counts) < batch // kinds  # where a label has too few rows for its share, others fill the places
    assert small or read.max() <= read.min() + 50


def test_a_rare_label_is_seen_as_often_as_a_common_one():
    target_E = np.repeat([0, 1], [500, 20])
    steps = pair_batches(target_E, batch_size=16, steps=30, seed=1)
    assert [np.bincount(target_E[rows]).tolist() for rows in steps] == [[8, 8]] * 30


def test_labels_of_one_row_are_drawn_as_counterparts_and_leave_room_for_pairs():
    target_E = np.concatenate([np.repeat([0, 1], 4), np.arange(2, 40)])
    steps = pair_batches(target_E, batch_size=8, steps=40, seed=1)
    for rows in steps:
        held = np.bincount(target_E[rows], minlength=40)
        assert held[0] == held[1] == 2
        assert held[2:].sum() == 4
    assert set(np.concatenate(steps).tolist()) == set(range(len(target_E)))


def test_one_label_with_pairs_among_single_rows_is_enough():
    steps = pair_batches(np.array([0, 0, 0, 1, 2]), batch_size=8, steps=3, seed=1)
    assert all(sorted(rows.tolist()) == [0, 1, 2, 3, 4] for rows in steps)


def test_the_rows_of_a_step_depend_on_the_seed_and_not_on_how_many_steps_follow():
    target_E = np.arange(60) % 5
    ten = pair_batches(target_E, batch_size=8, steps=10, seed=1)
    for one, other in zip(ten, pair_batches(target_E, batch_size=8, steps=30, seed=1), strict=False):
        np.testing.assert_array_equal(one, other)
    other = pair_batches(target_E, batch_size=8, steps=10, seed=2)
    assert any((a != b).any() for a, b in zip(ten, other, strict=True))


def test_rows_for_the_head_keep_every_label_and_its_share():
    target_E = np.repeat([0, 1, 2], [800, 199, 1])
    picked = stratified(target_E, 100, seed=0)
    assert len(set(picked.tolist())) == 100
    np.testing.assert_allclose(np.bincount(target_E[picked]), [80, 20, 1], atol=1)
    assert np.bincount(target_E[picked])[2] == 1
    assert stratified(target_E, 5000, seed=0).tolist() == list(range(1000))


# --- the loop


@pytest.mark.parametrize("loss", ["cosine", "supcon"])
def test_the_loss_falls(build, loss):
    plan = dataclasses.replace(PLAN, epochs=12)
    loop = build(plan, pairs=Pairs(loss=loss))
    loop.advance(loop.horizon)
    losses = loop.curve(0).train_losses
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])


@pytest.mark.parametrize("policy", ["keep_start", "chunk_and_pool"])
@pytest.mark.parametrize("budget", [1, 60, 150])
def test_encoding_a_step_in_parts_does_not_change_the_result(build, exact, policy, budget):
    train = rows_of(exact, 10, seed=4, policy=policy, longest=60)
    assert policy == "keep_start" or len(train.tokens.ids) > train.tokens.rows
    whole = build(dataclasses.replace(PLAN, epochs=2, tokens_per_pass=100_000), train=train)
    parts = build(dataclasses.replace(PLAN, epochs=2, tokens_per_pass=budget), train=train)
    for loop in (whole, parts):
        loop.advance(loop.horizon)
    gap = (whole.population.flat.values_PN - parts.population.flat.values_PN).abs().max()
    assert float(gap) < 1e-9
    np.testing.assert_allclose(whole.curve(0).train_losses, parts.curve(0).train_losses, atol=1e-10)


def test_the_gradient_is_that_of_all_pairs_of_the_step(build, exact):
    """Gold: autograd through the plain model, on padded rows in one pass."""
    loop = build()
    loop.advance(1)
    rows = loop._rows_of_step()
    loop._gradients(rows, [0])
    ours = loop.population.flat.views(loop.population.flat.grads_PN)
    model = shared_tree(exact.model)
    values = loop.population.export(loop.population.flat.values_PN[0])
    parameters = {name: values[name].clone().requires_grad_() for name, _ in model.named_parameters()}
    batch = batch_of(loop.population, loop.train, list(rows))
    inputs = {
        "input_ids": batch.input_ids_ST,
        "attention_mask": batch.attention_mask_ST,
        "token_type_ids": batch.token_type_ids_ST,
    }
    hidden = torch.func.functional_call(model, parameters, kwargs=inputs).last_hidden_state
    vector = torch.nn.functional.normalize(exact.pool(hidden, batch), dim=-1)
    loss, kinds = 0.0, {True: [], False: []}
    for i in range(len(rows)):
        for j in range(i):
            same = bool(loop.train.target_E[rows[i]] == loop.train.target_E[rows[j]])
            kinds[same].append((vector[i] @ vector[j] - float(same)) ** 2)
    loss = sum(torch.stack(squares).mean() for squares in kinds.values()) / 2
    loss.backward()
    compared = 0
    for name, parameter in parameters.items():
        if "word_embeddings" not in name and parameter.grad is not None:
            torch.testing.assert_close(ours[name][0], parameter.grad, rtol=0, atol=1e-10)
            compared += 1
    assert compared > 20
    assert float(ours["head.weight"].abs().max()) == 0.0


def test_the_head_is_fitted_on_the_vectors_of_train_at_the_best_step(build):
    loop = build()
    loop.advance(loop.horizon)
    best = loop.members[0].best_step
    again = build()
    again.advance(best)
    feature_EH = again._features(again.train).numpy()
    np.testing.assert_allclose(np.linalg.norm(feature_EH, axis=1), 1.0)
    weight_LH, bias_L = plain_head(feature_EH, again.train.target_E)
    tensors = loop.export(0)
    np.testing.assert_allclose(tensors["head.weight"].numpy(), weight_LH, atol=1e-6)
    np.testing.assert_allclose(tensors["head.bias"].numpy(), bias_L, atol=1e-6)


def test_a_head_is_fitted_where_nothing_was_measured_yet(build):
    loop = build()
    loop.advance(1)
    assert loop.members[0].best_step == -1
    logits_EL = loop.best_answers()[0]
    weight_LH, bias_L = plain_head(loop._features(loop.train).numpy(), loop.train.target_E)
    expected_EL = loop._features(loop.objective.race).numpy() @ weight_LH.T + bias_L
    np.testing.assert_allclose(logits_EL.numpy(), expected_EL, atol=1e-6)
    np.testing.assert_allclose(loop.export(0)["head.weight"].numpy(), weight_LH, atol=1e-6)


def test_looking_does_not_change_the_course(build):
    straight, looked = build(), build()
    straight.advance(straight.horizon)
    for step in range(1, looked.horizon + 1):
        looked.advance(step)
        looked.best_answers()
        looked.export(0)
    assert digest(straight) == digest(looked)


def test_a_refit_without_dev_ends_with_a_head_of_its_own(build, exact):
    loop = build(dataclasses.replace(PLAN, evaluations=0), race=rows_of(exact, 21, seed=0).subset([]))
    loop.advance(loop.horizon)
    weight_LH, _ = plain_head(loop._features(loop.train).numpy(), loop.train.target_E)
    np.testing.assert_allclose(loop.export(0)["head.weight"].numpy(), weight_LH, atol=1e-6)


def test_resuming_at_every_step_is_exact(build):
    straight = build()
    straight.advance(straight.horizon)
    expected = digest(straight)
    runner = build()
    for step in range(1, straight.horizon):
        runner.advance(step)
        tensors, meta = runner.state()
        resumed = build()
        resumed.restore(tensors, json.loads(json.dumps(meta, allow_nan=False)))
        resumed.advance(resumed.horizon)
        assert digest(resumed) == expected


def test_work_counts_each_row_of_a_step_once_and_the_evaluations(build):
    loop = build()
    work = loop.advance(loop.horizon)
    trained = sum(int(loop.train_sizes.tokens_E[rows].sum()) for rows in loop.batches)
    assert len(loop.batches) == loop.horizon
    assert work == 3 * trained + len(loop.points) * (loop.train.tokens.tokens + loop.objective.race.tokens.tokens)


def test_vectors_that_are_no_numbers_end_the_member_and_not_the_run(build):
    loop = build()
    honest = loop.population.vectors
    loop.population.vectors = lambda batch, key: honest(batch, key) * (float("nan") if loop.step >= 3 else 1.0)
    loop.advance(loop.horizon)
    assert loop.members[0].course is Course.DIVERGED
    assert "diverged: vectors of train are not numbers at step 3" in loop.members[0].reason
