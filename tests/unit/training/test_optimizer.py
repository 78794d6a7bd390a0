"""The optimiser: the library's own, member by member; the schedule; clipping."""

import pytest
import torch

from tunewise.training.flat import Flat, Group
from tunewise.training.optimizer import MemberOptimizer, clip, schedule


def flat_of(members):
    rng = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(members, 3, 4, generator=rng), "b": torch.randn(members, 4, generator=rng)}
    return Flat(tensors, group=lambda name, tensor: Group(decays=name == "w"))


def test_views_share_memory_and_keep_values():
    rng = torch.Generator().manual_seed(0)
    w, b = torch.randn(2, 3, 4, generator=rng), torch.randn(2, 4, generator=rng)
    flat = Flat({"b": b, "w": w}, group=lambda name, tensor: Group(decays=name == "w"))
    views = flat.views(flat.values_PN)
    assert torch.equal(views["w"], w)
    assert torch.equal(views["b"], b)
    assert flat.segments == ((0, 12, Group(decays=True)), (12, 16, Group(decays=False)))
    flat.values_PN[1] = 0.0
    assert not views["w"][1].any()
    assert not views["b"][1].any()
    assert torch.equal(flat.member(flat.values_PN[0])["w"], w[0])


def test_gradients_are_collected_and_added():
    flat = flat_of(2)
    flat.grads_PN.fill_(9.0)
    leaves = flat.leaves()
    for fresh in (True, False):
        (leaves["w"].sum() + 3.0 * leaves["b"][1].sum()).backward()
        flat.collect(leaves, fresh=fresh)
    expected = {"w": torch.full((2, 3, 4), 2.0), "b": torch.tensor([[0.0] * 4, [6.0] * 4])}
    assert all(torch.equal(flat.views(flat.grads_PN)[name], tensor) for name, tensor in expected.items())
    leaves["w"].sum().backward()
    flat.collect(leaves, fresh=True)
    assert not flat.views(flat.grads_PN)["b"].any(), "no gradient is a gradient of zero"


def test_each_member_is_updated_as_by_adamw_alone():
    flat = flat_of(3)
    rates, decays = [1e-2, 3e-3, 0.1], [0.0, 0.1, 0.5]
    optimizer = MemberOptimizer(flat, decays)
    singles = []
    for p in range(3):
        w, b = (tensor.clone().requires_grad_() for tensor in flat.member(flat.values_PN[p]).values())
        groups = [{"params": [w], "weight_decay": decays[p]}, {"params": [b], "weight_decay": 0.0}]
        singles.append((w, b, torch.optim.AdamW(groups, lr=rates[p])))
    for step in range(4):
        gradient = torch.randn(3, 16, generator=torch.Generator().manual_seed(step))
        flat.grads_PN.copy_(gradient)
        optimizer.step({p: rates[p] for p in range(3)})
        for p, (w, b, single) in enumerate(singles):
            w.grad, b.grad = gradient[p, :12].view(3, 4), gradient[p, 12:]
            single.step()
    for p, (w, b, _) in enumerate(singles):
        mine = flat.member(flat.values_PN[p])
        torch.testing.assert_close(mine["w"], w.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(mine["b"], b.detach(), rtol=1e-6, atol=1e-7)


def test_members_without_a_rate_stay_as_they_are():
    flat = flat_of(2)
    optimizer = MemberOptimizer(flat, [0.1, 0.1])
    before = flat.values_PN.clone()
    flat.grads_PN.fill_(1.0)
    optimizer.step({1: 0.1})
    assert torch.equal(flat.values_PN[0], before[0])
    assert not torch.equal(flat.values_PN[1], before[1])
    assert {name.split("/")[1] for name in optimizer.state()} == {"1"}


def test_clipping_is_per_member():
    grads_PN = torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 1.0]])
    norm_P = clip(grads_PN, 1.0)
    assert norm_P[:2].tolist() == pytest.approx([5.0, 0.5])
    assert grads_PN[0].tolist() == pytest.approx([0.6, 0.8], abs=1e-5)
    assert grads_PN[1].tolist() == pytest.approx([0.3, 0.4])
    assert torch.isnan(norm_P[2])


def test_schedule_climbs_then_falls_to_nothing():
    shares = [schedule("linear", step, horizon=10, warmup_share=0.2) for step in range(11)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0])
    assert schedule("linear", 0, horizon=4, warmup_share=0.0) == 1.0


def test_other_schedules_end_where_their_names_say():
    cosine = [schedule("cosine", step, horizon=10, warmup_share=0.2) for step in (2, 6, 10)]
    assert cosine == pytest.approx([1.0, 0.5, 0.0])
    assert [schedule("constant", step, horizon=10, warmup_share=0.2) for step in (0, 2, 9)] == [1 / 3, 1.0, 1.0]


LIBRARY = {
    "rmsprop": lambda groups: torch.optim.RMSprop(groups),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adafactor": lambda groups: torch.optim.Adafactor(groups),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_every_optimiser_is_the_librarys_also_after_others_left_and_a_restart(name):
    flat = flat_of(3)
    optimizer = MemberOptimizer(flat, [0.0, 0.1, 0.2], name)
    w, b = (tensor.clone().requires_grad_() for tensor in flat.member(flat.values_PN[2]).values())
    single = LIBRARY[name]([{"params": [w], "lr": 1e-2, "weight_decay": 0.2}, {"params": [b], "lr": 1e-2}])
    for step in range(6):
        if step == 2:
            flat.keep([0, 2])
            optimizer.keep([0, 2])
        if step == 4:
            saved = optimizer.state()
            optimizer = MemberOptimizer(flat, [0.0, 0.2], name)
            optimizer.restore(saved)
        gradient = torch.randn(16, generator=torch.Generator().manual_seed(step))
        flat.grads_PN.copy_(gradient.expand_as(flat.grads_PN))
        optimizer.step({p: 1e-2 for p in range(flat.size)})
        w.grad, b.grad = gradient[:12].view(3, 4), gradient[12:]
        single.step()
    mine = flat.member(flat.values_PN[-1])
    torch.testing.assert_close(mine["w"], w.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mine["b"], b.detach(), rtol=1e-6, atol=1e-7)


def test_a_group_of_tensors_may_learn_faster():
    tensors = {"w": torch.ones(1, 2), "b": torch.ones(1, 2)}
    flat = Flat(tensors, group=lambda name, tensor: Group(decays=False, rate=4.0 if name == "b" else 1.0))
    optimizer = MemberOptimizer(flat, [0.0], "sgd")
    flat.grads_PN.fill_(1.0)
    optimizer.step({0: 0.1})
    after = flat.member(flat.values_PN[0])
    assert after["w"].tolist() == pytest.approx([0.9, 0.9])
    assert after["b"].tolist() == pytest.approx([0.6, 0.6])


def test_the_gradients_can_be_released_after_a_step():
    flat = flat_of(2)
    optimizer = MemberOptimizer(flat, [0.0, 0.0])
    flat.grads_PN.fill_(1.0)
    optimizer.step({0: 1e-3, 1: 1e-3})
    assert all(values.grad is None for _, _, values, _ in optimizer._parts)
