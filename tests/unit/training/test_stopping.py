"""Early stopping looks at the temperature-scaled dev loss."""

import numpy as np
import pytest
import torch

from tunewise.training.stopping import Course, Member, dev_losses, evaluation_steps


def test_losses_on_paper():
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    plain, scaled = dev_losses(logits, torch.tensor([0, 0]))
    assert plain == pytest.approx((np.log(2.0) + np.log(4 / 3)) / 2)
    assert scaled <= plain


def test_confidence_alone_does_not_change_the_scaled_loss():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=rng)
    target = (logits + torch.randn(50, 4, generator=rng)).argmax(-1)
    plain, scaled = dev_losses(logits, target)
    louder_plain, louder_scaled = dev_losses(4.0 * logits, target)
    assert louder_plain > plain + 0.3
    assert louder_scaled == pytest.approx(scaled, abs=1e-9)


def test_stops_after_patience_and_remembers_the_best():
    member = Member()
    for step, loss in enumerate([1.0, 0.8, 0.9, 0.85], start=1):
        assert member.record(step, loss, loss, patience=2) == (step <= 2)
    assert member.course is Course.STOPPED
    assert member.best_step == 2
    assert member.curve.dev_losses == (1.0, 0.8, 0.9, 0.85)


@pytest.mark.parametrize(("horizon", "expected"), [(16, (2, 4, 6, 8, 10, 12, 14, 16)), (3, (1, 2, 3)), (1, (1,))])
def test_evaluations_are_spread_evenly_and_end_at_the_horizon(horizon, expected):
    assert evaluation_steps(horizon, 8) == expected
