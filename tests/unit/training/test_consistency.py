"""Two passes with different dropout should agree (R-Drop): what that adds to the loss, and what it costs."""

import dataclasses

import numpy as np
import pytest
import torch

from tunewise.training.labels import batch_of
from tunewise.training.loop import Plan
from tunewise.training.population import Key

PLAN = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)
TWICE = dataclasses.replace(PLAN, consistency=2.0)
CALM, DROPPING = 0, 2
"""Members of the fixture without dropout and with a fifth of it."""


def trained(loop):
    loop.advance(loop.horizon)
    return loop


def gradients(loop):
    """Of the first step, from where B is no longer zero, so that dropout shows."""
    values_PN = loop.population.flat.values_PN
    values_PN += torch.randn(values_PN.shape, generator=torch.Generator().manual_seed(0), dtype=values_PN.dtype) * 0.1
    rows = np.arange(5)
    (loss,) = loop._gradients(rows, [0])
    return loss, loop.population.flat.grads_PN.clone()


def test_without_dropout_nothing_changes(lora_loop, full_loop):
    for build in (lambda plan: lora_loop([CALM], plan), lambda plan: full_loop(0, plan)):
        once, twice = trained(build(PLAN)), trained(build(TWICE))
        assert float((once.population.flat.values_PN - twice.population.flat.values_PN).abs().max()) < 1e-10
        np.testing.assert_allclose(once.curve(0).train_losses, twice.curve(0).train_losses, atol=1e-12)
        np.testing.assert_allclose(once.curve(0).dev_losses, twice.curve(0).dev_losses, atol=1e-10)


def test_with_dropout_the_loss_is_larger_and_the_gradients_are_others(lora_loop):
    """Larger than the mean of the two passes, which a weight of next to nothing gives."""
    mean, mean_gradients = gradients(lora_loop([DROPPING], dataclasses.replace(PLAN, consistency=1e-12)))
    more, more_gradients = gradients(lora_loop([DROPPING], TWICE))
    assert more > mean + 1e-4
    assert float((more_gradients - mean_gradients).abs().max()) > 1e-4


def test_the_loss_is_the_one_of_the_paper(lora_loop, train):
    """Half of L_CE(1) + L_CE(2) + weight * (KL(1, 2) + KL(2, 1)) / 2, computed by hand for every row."""
    loop = lora_loop([DROPPING], TWICE)
    values_PN = loop.population.flat.values_PN
    values_PN += torch.randn(values_PN.shape, generator=torch.Generator().manual_seed(0), dtype=values_PN.dtype) * 0.1
    loop.step = 4
    rows = [0, 3, 5, 8]
    batch = batch_of(loop.population, train, rows)
    with torch.no_grad():
        one, two = (
            torch.log_softmax(loop.population.logits(batch, [0], Key(step, np.array(rows)))[0], dim=-1)
            for step in (4, loop.horizon + 4)
        )
        ours = float(loop.objective.losses(loop.population, loop._part(rows, [0]))[0])
    expected = 0.0
    for row, (p, q) in zip(rows, zip(one, two, strict=True), strict=True):
        target = int(train.target_E[row])
        apart = float((p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum())
        expected += (-float(p[target]) - float(q[target]) + 2.0 * apart / 2) / 2
    assert ours == pytest.approx(expected, abs=1e-12)
    assert not torch.allclose(one, two, atol=1e-3), "the two passes must drop different things"


def test_class_weights_weigh_the_divergence_too(lora_loop, train):
    """A row of weight 0 has no part in the loss, however far its two passes are apart."""
    weight_L = np.array([0.0, 0.0, 1.0])
    loop = lora_loop([DROPPING], TWICE, class_weight_L=weight_L)
    values_PN = loop.population.flat.values_PN
    values_PN += torch.randn(values_PN.shape, generator=torch.Generator().manual_seed(0), dtype=values_PN.dtype) * 0.1
    rows = [int(row) for row in np.flatnonzero(train.target_E != 2)[:3]]
    assert float(loop.objective.losses(loop.population, loop._part(rows, [0]))[0].detach()) == 0.0


def test_dropout_of_the_base_differs_between_the_passes(full_loop):
    plain = dataclasses.replace(PLAN, consistency=1e-12)
    losses = [trained(full_loop(0, plan, base_dropout=True)).curve(0).train_losses for plan in (plain, TWICE)]
    assert not np.allclose(losses[0], losses[1], atol=1e-4)


def test_the_work_is_counted_double(lora_loop, full_loop):
    for build in (lambda plan: lora_loop([0, 1], plan), lambda plan: full_loop(0, plan)):
        once, twice = build(PLAN), build(TWICE)
        once.points = twice.points = ()
        assert twice.advance(4) == 2 * once.advance(4)


def test_a_member_of_three_ends_as_the_same_candidate_alone(lora_loop):
    members = [1, 2, 5]
    together = trained(lora_loop(members, TWICE))
    for place, p in enumerate(members):
        alone = trained(lora_loop([p], TWICE))
        gap = (alone.population.flat.values_PN[0] - together.population.flat.values_PN[place]).abs().max()
        assert float(gap) < 1e-10
        np.testing.assert_allclose(alone.curve(0).train_losses, together.curve(place).train_losses, atol=1e-10)


def test_micro_batches_do_not_change_the_result(lora_loop):
    small, whole = (dataclasses.replace(TWICE, tokens_per_pass=budget) for budget in (40, 100_000))
    one, many = trained(lora_loop([0, 2], whole)), trained(lora_loop([0, 2], small))
    assert float((one.population.flat.values_PN - many.population.flat.values_PN).abs().max()) < 1e-10
