"""The loop: members do not see each other, slices and micro-batches do not matter, resuming is exact."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from tunewise.models.tree import shared_tree
from tunewise.training.labels import batch_of
from tunewise.training.loop import Plan, Settings
from tunewise.training.rows import Rows
from tunewise.training.stopping import Course

WORDS = ["card", "stolen", "payment", "dull", "worst", "product", "order", "refund"]


def digest(loop):
    tensors, meta = loop.state()
    text = json.dumps(meta, sort_keys=True)
    for name in sorted(tensors):
        text += name + hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest()
    return hashlib.sha256(text.encode()).hexdigest()


def close(first, second, tolerance=1e-10):
    return float((first - second).abs().max()) < tolerance


def test_a_member_of_eight_ends_as_the_same_candidate_alone(lora_loop):
    together = lora_loop(range(8))
    together.advance(together.horizon)
    start = lora_loop(range(8)).population.flat.values_PN
    for p in range(8):
        alone = lora_loop([p])
        alone.advance(alone.horizon)
        assert close(alone.population.flat.values_PN[0], together.population.flat.values_PN[p])
        assert close(alone.best_weights(0), together.best_weights(p))
        assert alone.members[0].best_step == together.members[p].best_step
        np.testing.assert_allclose(alone.curve(0).dev_losses, together.curve(p).dev_losses, atol=1e-10)
        assert not close(start[p], together.population.flat.values_PN[p], 1e-3), "it must have learnt"


def test_rows_in_several_pieces_stay_with_their_member(lora_loop, double):
    texts = [(" ".join(WORDS * count),) for count in (1, 9, 2, 12, 7)]
    tokens = double.encode(texts, "chunk_and_pool")
    assert len(tokens.ids) > tokens.rows
    rows = Rows(tokens, np.array([0, 1, 2, 0, 1]))
    plan = Plan(epochs=2, batch_size=3, seed=3)
    together = lora_loop([1, 2], plan, rows=rows, dev=rows)
    together.advance(4)
    for place, p in enumerate((1, 2)):
        alone = lora_loop([p], plan, rows=rows, dev=rows)
        alone.advance(4)
        assert close(alone.population.flat.values_PN[0], together.population.flat.values_PN[place])


def test_members_differ_from_each_other(lora_loop):
    loop = lora_loop(range(8))
    loop.advance(3)
    values_PN = loop.population.flat.values_PN
    assert all(not close(values_PN[p], values_PN[q], 1e-4) for p in range(8) for q in range(p))


@pytest.mark.parametrize("budget", [1, 40, 100])
def test_micro_batches_do_not_change_the_result(lora_loop, full_loop, budget):
    small = dataclasses.replace(Plan(epochs=1, batch_size=7, seed=3), tokens_per_pass=budget)
    whole = dataclasses.replace(small, tokens_per_pass=100_000)
    for build in (lambda plan: lora_loop([0, 2], plan), lambda plan: full_loop(1, plan)):
        one, many = build(whole), build(small)
        one.advance(one.horizon)
        many.advance(many.horizon)
        assert close(one.population.flat.values_PN, many.population.flat.values_PN)
        np.testing.assert_allclose(one.curve(0).train_losses, many.curve(0).train_losses, atol=1e-10)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resuming_at_every_step_is_exact(lora_loop, full_loop, kind):
    build = (lambda: lora_loop([0, 1, 5])) if kind == "lora" else full_loop
    straight = build()
    straight.advance(straight.horizon)
    expected = digest(straight)
    runner = build()
    for step in range(1, straight.horizon):
        runner.advance(step)
        tensors, meta = runner.state()
        resumed = build()
        resumed.restore(tensors, json.loads(json.dumps(meta, allow_nan=False)))
        assert digest(resumed) == digest(runner)
        resumed.advance(resumed.horizon)
        assert digest(resumed) == expected


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("lost", ["values_PN", "best_PN", "step", "members"])
def test_nothing_in_the_state_can_be_lost(lora_loop, full_loop, kind, lost):
    build = (lambda: lora_loop([0, 1, 5])) if kind == "lora" else full_loop
    straight = build()
    straight.advance(straight.horizon)
    half = build()
    half.advance(6)
    tensors, meta = half.state()
    fresh_tensors, fresh_meta = build().state()
    (tensors if lost in tensors else meta)[lost] = (fresh_tensors if lost in tensors else fresh_meta)[lost]
    resumed = build()
    resumed.restore(tensors, meta)
    resumed.advance(resumed.horizon)
    assert digest(resumed) != digest(straight)


def test_slices_do_not_matter(lora_loop, full_loop):
    for build in (lambda: lora_loop([0, 1]), full_loop):
        straight, sliced = build(), build()
        work = straight.advance(straight.horizon)
        parts = sum(sliced.advance(step) for step in (1, 1, 3, 4, 8, 99))
        assert digest(straight) == digest(sliced)
        assert work == parts


def test_keeping_members_does_not_change_them(lora_loop):
    straight, shrunk = lora_loop(range(4)), lora_loop(range(4))
    straight.advance(straight.horizon)
    shrunk.advance(3)
    shrunk.keep([3, 1])
    shrunk.advance(shrunk.horizon)
    for place, p in enumerate([3, 1]):
        assert close(shrunk.population.flat.values_PN[place], straight.population.flat.values_PN[p])
        assert shrunk.curve(place).dev_steps == straight.curve(p).dev_steps


def test_work_counts_unpadded_tokens_of_members(lora_loop, full_loop, train, race):
    lora, full = lora_loop([0, 1, 2]), full_loop()
    points = len(lora.points)
    assert lora.advance(lora.horizon) == 3 * (2 * 2 * train.tokens.tokens + points * race.tokens.tokens)
    assert full.advance(full.horizon) == 2 * 3 * train.tokens.tokens + points * race.tokens.tokens


def test_the_base_is_not_touched(lora_loop, full_loop, double):
    before = {name: (id(tensor), tensor.clone()) for name, tensor in double.model.named_parameters()}
    for loop in (lora_loop([0, 1]), full_loop()):
        loop.advance(loop.horizon)
    after = dict(double.model.named_parameters())
    assert all(
        id(after[name]) == which and torch.equal(after[name], tensor) for name, (which, tensor) in before.items()
    )
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in after.values())


def test_full_equals_plain_adamw_on_the_whole_model(full_loop, double, train):
    """Gold: torch's own AdamW on every parameter, embeddings of unseen tokens and all, without decay."""
    plan = Plan(epochs=1, batch_size=5, seed=3, clip_norm=1.0)
    loop = full_loop(0, plan)
    loop.settings = [Settings(learning_rate=1e-3, warmup_share=0.0)]
    model = shared_tree(double.model)
    for name, parameter in list(model.named_parameters()):
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._parameters[last] = torch.nn.Parameter(parameter.detach().clone())
    encoder = loop.population.encoder
    head = torch.nn.Linear(32, 3, dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (loop.horizon - step) / loop.horizon)
    for step in range(loop.horizon):
        loop.step = step
        rows = loop._rows_of_step()
        batch = batch_of(loop.population, train, list(rows))
        hidden = model(
            input_ids=batch.input_ids_ST,
            attention_mask=batch.attention_mask_ST,
            token_type_ids=batch.token_type_ids_ST,
        ).last_hidden_state
        loss = torch.nn.functional.cross_entropy(head(encoder.pool(hidden, batch)), torch.tensor(train.target_E[rows]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    loop.step = 0
    loop.optimizer.weight_decay = [0.0]
    loop.optimizer._build([{}])
    loop.advance(loop.horizon)
    ours = loop.population.export(loop.population.flat.values_PN[0])
    for name, theirs in [*model.named_parameters(), ("head.weight", head.weight), ("head.bias", head.bias)]:
        torch.testing.assert_close(ours[name], theirs.detach(), rtol=0, atol=1e-9)


def poisoned(loop, member, at, value):
    """The loop, with a member's logits turned bad at a step."""
    honest = loop.population.logits

    def logits(batch, active, key):
        out = honest(batch, active, key)
        if key is not None and key.step == at and member in active:
            out = out.clone()
            out[list(active).index(member)] = out[list(active).index(member)] * value
        return out

    loop.population.logits = logits
    return loop


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_member_without_a_finite_loss_stops_before_the_step(lora_loop, value, at):
    loop = poisoned(lora_loop([0, 1, 2]), 1, at, value)
    loop.advance(at)
    before = loop.population.flat.values_PN[1].clone()
    loop.advance(loop.horizon)
    assert loop.members[1].course is Course.DIVERGED
    assert f"at step {at + 1} of 10, learning rate" in loop.members[1].reason
    assert torch.equal(loop.population.flat.values_PN[1], before)
    tensors, _ = loop.state()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    for p in (0, 2):
        alone = lora_loop([p])
        alone.advance(alone.horizon)
        assert close(alone.population.flat.values_PN[0], loop.population.flat.values_PN[p])


def test_a_finite_loss_with_a_bad_gradient_stops_too(lora_loop):
    loop = lora_loop([0, 1])
    honest = loop.population.gather

    def gather():
        honest()
        if loop.step == 2:
            loop.population.flat.grads_PN[0, 5] = float("nan")

    loop.population.gather = gather
    loop.advance(loop.horizon)
    assert loop.members[0].course is Course.DIVERGED
    assert "gradient norm nan at step 3" in loop.members[0].reason
    assert bool(torch.isfinite(loop.population.flat.values_PN).all())
    assert loop.members[1].course is not Course.DIVERGED


def test_all_diverged_returns_at_once(lora_loop):
    loop = poisoned(lora_loop([0]), 0, 0, float("nan"))
    loop.advance(1)
    assert loop.advance(loop.horizon) == 0
    assert loop.step == loop.horizon


def test_a_member_that_gets_no_better_stops_and_its_best_step_is_kept(lora_loop):
    plan = Plan(epochs=6, batch_size=5, seed=3, evaluations=15, patience=2)
    loop = lora_loop([0, 7], plan)
    loop.settings = [Settings(learning_rate=0.3), loop.settings[1]]
    loop.advance(loop.horizon)
    first = loop.members[0]
    assert first.course is Course.STOPPED
    assert "no better on dev for 2 evaluations" in first.reason
    assert first.dev_steps[-1] < loop.horizon
    again = lora_loop([0, 7], plan)
    again.settings = loop.settings
    again.advance(first.best_step)
    assert close(again.population.flat.values_PN[0], loop.best_weights(0))


def test_the_best_weights_are_copied_only_where_later_steps_leave_them(lora_loop):
    loop = lora_loop([0, 1])
    loop.advance(loop.points[0])
    assert loop.best_weights(0).data_ptr() == loop.population.flat.values_PN.data_ptr()
    then_PN = loop.population.flat.values_PN.clone()
    loop.advance(loop.points[0] + 1)
    for p in range(2):
        assert torch.equal(loop.best_weights(p), then_PN[p])
        assert not torch.equal(loop.population.flat.values_PN[p], then_PN[p])


def test_memory_that_runs_out_halves_the_pass_and_keeps_the_step(lora_loop):
    calm, short = lora_loop([0, 1]), lora_loop([0, 1])
    honest = short.population.logits

    def logits(batch, active, key):
        if batch.input_ids_ST.numel() * len(active) > 60:
            raise torch.OutOfMemoryError("made up")
        return honest(batch, active, key)

    calm.advance(calm.horizon)
    short.population.logits = logits
    short.budget = 480
    short.points = ()
    short.advance(4)
    assert short.budget == 60
    again = lora_loop([0, 1])
    again.points = ()
    again.advance(4)
    assert close(short.population.flat.values_PN, again.population.flat.values_PN)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_memory_that_runs_out_on_the_way_back_leaves_no_gradient_behind(lora_loop, full_loop, kind):
    build = (lambda: lora_loop([0, 1])) if kind == "lora" else full_loop
    calm, short = build(), build()
    for loop in (calm, short):
        loop.points = ()
    failures = [torch.OutOfMemoryError("made up")]
    inside = short.population.encoder.model.get_submodule("encoder.layer.0.attention.output.LayerNorm")

    def fail_once(module, gradient, output):
        if failures:
            raise failures.pop()

    inside.register_full_backward_hook(fail_once)
    short.budget = 480
    for loop in (calm, short):
        loop._gradients_within_memory(loop._rows_of_step(), loop.active)
    assert not failures
    assert short.budget == 240
    assert close(short.population.flat.grads_PN, calm.population.flat.grads_PN)


def test_class_weights_weigh_rows(lora_loop, train):
    """Weights 0 for two labels: only rows of the third have a part in the loss, over their own number."""
    weight_L = np.array([0.0, 0.0, 1.0])
    loop = lora_loop([0], Plan(epochs=1, batch_size=22, seed=3), class_weight_L=weight_L)
    loop.advance(1)
    rows = np.flatnonzero(train.target_E == 2)
    only = Rows(train.tokens.of_rows(rows), train.target_E[rows])
    other = lora_loop([0], Plan(epochs=1, batch_size=22, seed=3), rows=only)
    other.advance(1)
    assert loop.curve(0).train_losses == pytest.approx(other.curve(0).train_losses, abs=1e-12)
    assert loop.curve(0).train_losses[0] == pytest.approx(np.log(3))


def test_bfloat16_learns_what_float32_learns(tiny, full_loop):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        loop = full_loop(0, Plan(epochs=8, batch_size=5, seed=3, patience=99), base=tiny, dtype=dtype)
        loop.settings = [Settings(learning_rate=3e-3)]
        loop.advance(loop.horizon)
        assert loop.population.flat.values_PN.dtype == torch.float32
        losses[dtype] = np.mean(loop.curve(0).train_losses[-5:])
    assert losses[torch.float32] < 0.9 * np.log(3)
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.1)


def test_base_dropout_changes_training_and_is_reproducible(full_loop):
    def values(**options):
        loop = full_loop(0, **options)
        torch.manual_seed(np.random.default_rng().integers(1000))
        loop.advance(3)
        return loop.population.flat.values_PN

    assert torch.equal(values(base_dropout=True), values(base_dropout=True))
    assert not torch.equal(values(base_dropout=True), values())
