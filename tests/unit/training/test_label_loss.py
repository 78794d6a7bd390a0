"""Where a text may have several labels, every label is a yes or no of its own, for each member as if it were alone."""

import numpy as np
import pytest
import torch

from tunewise.training.label_loss import label_divergence, label_losses, smoothed
from tunewise.training.labels import batch_of, sequences_of
from tunewise.training.loop import Plan
from tunewise.training.population import Key
from tunewise.training.rows import Rows
from tunewise.training.stopping import TEMPERATURES, dev_losses


def marked(rows: Rows) -> Rows:
    """The same texts, with two labels out of three that depend on the one they had."""
    marks_L3 = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
    return Rows(rows.tokens, marks_L3[rows.target_E])


def test_the_loss_on_paper():
    logits_RL = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    wanted_RL = torch.tensor([[1.0, 0.0]])
    # ln 2 for a coin's yes; ln(1 + e^2) for a no against odds of e^2
    assert float(label_losses(logits_RL, wanted_RL)) == pytest.approx((np.log(2) + np.log1p(np.exp(2))) / 2)


def test_smoothing_moves_targets_to_one_half():
    wanted = smoothed(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(wanted, torch.tensor([[[1.0, 0.0]], [[0.9, 0.1]]]))


def test_passes_that_agree_do_not_diverge():
    one, other = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert bool((label_divergence(one, one) == 0).all())
    assert bool((label_divergence(one, other) > 0).all())


def test_dev_losses_are_plain_and_at_the_best_temperature():
    torch.manual_seed(0)
    logits_EL, wanted_EL = 8 * torch.randn(50, 3), (torch.rand(50, 3) < 0.5).float()
    plain, scaled = dev_losses(logits_EL, wanted_EL)
    assert plain == pytest.approx(float(label_losses(logits_EL.double(), wanted_EL).mean()))
    assert scaled == pytest.approx(
        min(float(label_losses(logits_EL.double() / t, wanted_EL).mean()) for t in TEMPERATURES)
    )
    assert scaled < plain


def test_the_loss_of_a_step_is_the_mean_over_rows_and_labels(lora_loop, train, race):
    loop = lora_loop([0], rows=marked(train), dev=marked(race))
    rows = np.arange(6)
    (loss,) = loop._gradients(rows, [0])
    grad_PN = loop.population.flat.grads_PN.clone()
    batch = batch_of(loop.population, loop.objective.train, list(rows))
    logits_ARL = loop.population.logits(batch, [0], None).detach()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits_ARL[0], torch.as_tensor(loop.objective.train.target_E[rows]).to(logits_ARL)
    )
    assert loss == pytest.approx(float(expected))
    assert float(grad_PN.abs().sum()) > 0


@pytest.mark.parametrize(
    "plan", [Plan(epochs=2, batch_size=5, seed=3), Plan(epochs=2, batch_size=5, seed=3, consistency=1.0)]
)
def test_a_member_among_others_equals_itself_alone(lora_loop, train, race, plan):
    rows, dev = marked(train), marked(race)
    together, alone = (lora_loop(members, plan=plan, rows=rows, dev=dev) for members in ([0, 2, 5], [2]))
    for loop in (together, alone):
        loop.advance(loop.horizon)
    torch.testing.assert_close(together.best_answers_PEK[1], alone.best_answers_PEK[0], rtol=1e-6, atol=1e-7)
    assert together.curve(1).dev_losses == pytest.approx(alone.curve(0).dev_losses, rel=1e-6)


def test_passes_with_different_dropout_are_pulled_together_label_by_label(lora_loop, train, race):
    plan = Plan(epochs=4, batch_size=5, seed=3, consistency=2.0)
    loop = lora_loop([1], plan=plan, rows=marked(train), dev=marked(race))
    loop.advance(6)
    run = [0, 3, 4, 9]
    batch, wanted = (
        batch_of(loop.population, loop.objective.train, run),
        torch.as_tensor(loop.objective.train.target_E[run]),
    )
    (loss,) = loop.objective.losses(loop.population, loop._part(run, [0])).tolist()
    sequences = sequences_of(loop.objective.train.tokens, run)
    one, other = (
        loop.population.logits(batch, [0], Key(step, sequences)).detach()
        for step in (loop.step, loop.horizon + loop.step)
    )
    soft = smoothed(wanted.to(one)[None], one.new_tensor([loop.settings[0].label_smoothing]))
    plain = (label_losses(one, soft) + label_losses(other, soft)).sum() / 2
    apart = label_divergence(one, other).sum()
    assert float(apart) > 1e-6
    assert loss == pytest.approx(float(plain + 2.0 / 4 * apart), rel=1e-9)


def test_labels_are_learnt(lora_loop, train):
    plan = Plan(epochs=30, batch_size=11, seed=3, patience=99)
    loop = lora_loop([0], plan=plan, rows=marked(train), dev=marked(train))
    loop.advance(loop.horizon)
    losses = loop.curve(0).dev_losses
    assert losses[-1] < 0.8 * losses[0]
