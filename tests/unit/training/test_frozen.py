"""Kept states of lower blocks: same losses, less work, only the blocks above move, and no base is broken by them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tunewise.adapters.lora import LoraStack, target_layers
from tunewise.adapters.stack import Member
from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError, ModelError
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold
from tunewise.models.encoder import collate
from tunewise.models.load import load_base
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder
from tunewise.models.tree import shared_tree
from tunewise.training import frozen
from tunewise.training.adapted import StackedPopulation
from tunewise.training.frozen import LowerBlocks, blocks_of
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.training.whole import FullPopulation
from tunewise.types import Example

TEXTS = [("the card was stolen",), ("how do I reset the password of my account",), ("never dull",), ("dull",)] * 2
PLAN = Plan(epochs=4, batch_size=3, seed=3, evaluations=3)
RATES = (1e-2, 3e-3)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request, tmp_path_factory):
    """Four blocks, so that there are several below and several above."""
    folder = tiny_encoder(tmp_path_factory.mktemp("bases"), architecture=request.param, layers=4)
    return load_base(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    folder = tiny_encoder(tmp_path_factory.mktemp("bases"), layers=4)
    return load_base(str(folder), device="cpu", dtype="float32")


def rows_of(base, texts=TEXTS):
    return Rows(base.encode(texts, "keep_start"), np.arange(len(texts)) % 3)


def lora_loop(base, lower, members=1, dropout=0.0):
    rows, seeds = rows_of(base), [Member(seed=p, dropout=dropout) for p in range(members)]
    population = StackedPopulation(
        base,
        lambda tree: LoraStack(lower.attach(tree), seeds, rank=2, targets=target_layers(tree)),
        HeadStart(labels=3),
    )
    return Loop(population, Labels(rows, rows, 3), PLAN, [Settings(learning_rate=rate) for rate in RATES[:members]])


def full_loop(base, lower, **options):
    rows = rows_of(base)
    used = np.unique(np.concatenate(rows.tokens.ids))
    population = FullPopulation(
        base, HeadStart(labels=3), used_tokens=used, dtype=torch.float32, lower=lower, **options
    )
    return Loop(population, Labels(rows, rows, 3), PLAN, [Settings(learning_rate=3e-3)])


def kept(base, top_layers=2):
    lower = LowerBlocks(base, top_layers, [rows_of(base).tokens])
    assert lower.share == top_layers / 4, lower.note
    return lower


@pytest.mark.parametrize("build", [lora_loop, full_loop])
def test_losses_are_the_same_with_and_without_kept_states(base, build):
    with_states, without = build(base, kept(base)), build(base, LowerBlocks(base, 2))
    for loop in (with_states, without):
        loop.advance(loop.horizon)
    for kind in ("train_losses", "dev_losses"):
        one, other = (getattr(loop.curve(0), kind) for loop in (with_states, without))
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.ptp(one) > 1e-3, "it must have learnt"


def test_the_blocks_below_are_not_called_again(base, monkeypatch):
    lower = kept(base)
    calls = []
    honest = frozen._Below.forward

    def forward(below, *args, **kwargs):
        calls.append(below.lower.hidden_STH is None)
        return honest(below, *args, **kwargs)

    monkeypatch.setattr(frozen._Below, "forward", forward)
    loop = lora_loop(base, lower)
    loop.advance(2)
    assert calls
    assert not any(calls)


def test_a_sequence_that_was_not_kept_passes_through_the_blocks(base):
    lower = kept(base)
    tree = lower.attach(shared_tree(base.model))
    strange = base.encode([("please refund the money",), ("the card was stolen",)], "keep_start")
    batch = collate(strange, [0, 1], pad_id=base.pad_id, device=base.device)
    changed = copy.copy(base)
    changed.model = tree
    with torch.no_grad():
        read = batch.attention_mask_ST.bool()
        torch.testing.assert_close(changed.forward(batch)[read], base.forward(batch)[read], atol=1e-5, rtol=1e-5)
    assert lower.hidden_STH is None


def test_pairs_with_the_same_ids_and_other_types_are_told_apart(deep):
    """The second text of a pair has its own type: the same words, cut elsewhere, are another sequence."""
    tokens = deep.encode([("card order", "dull"), ("card", "order dull")], "keep_start")
    ids = [tokens.ids[0], tokens.ids[0]]
    types = [np.zeros_like(ids[0]), np.array([0] * 2 + [1] * (len(ids[0]) - 2))]
    tokens = dataclasses.replace(tokens, ids=ids, types=types)
    lower = LowerBlocks(deep, 2, [tokens])
    batch = collate(tokens, [0, 1], pad_id=deep.pad_id, device=deep.device)
    changed = copy.copy(deep)
    changed.model = lower.attach(shared_tree(deep.model))
    with torch.no_grad():
        torch.testing.assert_close(changed.forward(batch), deep.forward(batch), atol=1e-5, rtol=1e-5)
    assert lower.hidden_STH is not None


def test_only_the_blocks_above_are_found_and_trained(base):
    path, _ = blocks_of(base.model)
    lower = kept(base)
    names = lora_loop(base, lower).population.stack.layers
    assert {name.removeprefix(f"{path}.").split(".")[0] for name in names} == {"2", "3"}
    loop = full_loop(base, lower)
    before = {name: tensor.clone() for name, tensor in base.model.named_parameters()}
    loop.advance(2)
    after = loop.population.export(loop.population.flat.values_PN[0])
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    above = {name for name in before if name.startswith((f"{path}.2.", f"{path}.3."))}
    assert moved
    assert moved <= above
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.named_parameters())
    count = sum(before[name].numel() for name in above)
    assert loop.population.trainable_parameters(0) == count + 3 * 33


def test_members_share_kept_states_and_do_not_see_each_other(deep):
    lower = kept(deep)
    together = lora_loop(deep, lower, members=2, dropout=0.2)
    together.advance(together.horizon)
    alone = lora_loop(deep, lower, dropout=0.2)
    alone.advance(alone.horizon)
    np.testing.assert_allclose(alone.curve(0).train_losses, together.curve(0).train_losses, atol=1e-5)
    assert not np.allclose(together.curve(1).train_losses, together.curve(0).train_losses, atol=1e-3)


def test_dropout_of_the_base_reaches_the_trained_blocks_only(deep):
    """Where states are kept or not, the blocks below and the embeddings answer the same in every step."""
    losses = []
    for lower in (kept(deep), LowerBlocks(deep, 2)):
        loop = full_loop(deep, lower, base_dropout=True)
        loop.advance(4)
        losses.append(loop.curve(0).train_losses)
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    calm = full_loop(deep, kept(deep))
    calm.advance(4)
    assert not np.allclose(calm.curve(0).train_losses, losses[0], atol=1e-4)


@pytest.mark.parametrize("build", [lora_loop, full_loop])
def test_work_counts_the_blocks_that_are_computed(deep, build):
    """One block of four: a quarter of each step's and each evaluation's work, rounded."""
    whole, quarter = build(deep, kept(deep, 1)), build(deep, kept(deep, 1))
    quarter.work_share = 0.25
    for step in range(1, 5):
        assert quarter.advance(step) == pytest.approx(whole.advance(step) / 4, abs=1)
    twins = lora_loop(deep, kept(deep, 1), members=2)
    alone = lora_loop(deep, kept(deep, 1))
    twins.work_share = alone.work_share = 0.25
    assert twins.advance(4) == 2 * alone.advance(4)


def test_more_than_the_limit_is_not_kept_and_that_is_said(deep):
    tokens = rows_of(deep).tokens
    size = tokens.tokens * 32 * 4
    assert LowerBlocks(deep, 2, [tokens], most_bytes=size).share == 0.5
    over = LowerBlocks(deep, 2, [tokens], most_bytes=size - 1)
    assert over.share == 1.0
    assert over.note == "the lower 2 of 4 blocks are computed in every step: 0.0 MB to keep, more than 0.0 MB"
    loop = lora_loop(deep, over)
    loop.advance(1)
    assert np.isfinite(loop.curve(0).train_losses).all()


def test_a_sequence_is_kept_once(deep):
    lower = kept(deep)
    assert "are computed once for 4 sequences" in lower.note
    distinct = sum(len(ids) for ids in {ids.tobytes(): ids for ids in rows_of(deep).tokens.ids}.values())
    assert lower._kept_NH.shape == (1 + distinct, 32)


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_a_base_that_answers_differently_is_trained_without_kept_states_and_that_is_said(deep, monkeypatch, fault):
    honest = LowerBlocks._found

    def found(lower, *args):
        if fault == "raises":
            raise RuntimeError("made up")
        return honest(lower, *args) * 1.01

    monkeypatch.setattr(LowerBlocks, "_found", found)
    lower = LowerBlocks(deep, 2, [rows_of(deep).tokens])
    assert lower.share == 1.0
    expected = {"differs": "with kept states, answers differ by", "raises": "BertModel refuses kept states (made up)"}
    assert lower.note.startswith("the lower 2 of 4 blocks are computed in every step: ")
    assert expected[fault] in lower.note
    loop = lora_loop(deep, lower)
    plain = lora_loop(deep, LowerBlocks(deep, 2))
    for each in (loop, plain):
        each.advance(2)
    assert loop.curve(0).train_losses == plain.curve(0).train_losses


def test_more_blocks_than_there_are_is_refused(deep):
    with pytest.raises(ModelError, match=r"`top_layers` is 5, but it has 4 blocks. Use 4 or fewer."):
        LowerBlocks(deep, 5)


def test_all_blocks_leave_nothing_to_keep(deep):
    lower = LowerBlocks(deep, 4, [rows_of(deep).tokens])
    assert (lower.share, lower.note) == (1.0, None)
    lora_loop(deep, lower).advance(1)


def test_a_base_whose_blocks_are_no_list_is_refused(deep):
    odd = copy.copy(deep)
    odd.model = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"Linear: its blocks are not one list of None modules.*Train without"):
        LowerBlocks(odd, 1)


# --- as an option of rungs


@pytest.fixture
def context(deep):
    labels = ("down", "flat", "up")
    rows = [
        tuple(
            Example(id=f"{part}-{i}", fields={"text": texts[0]}, target=labels[i % 3])
            for i, texts in enumerate(TEXTS[part:] * 2)
        )
        for part in (0, 3)
    ]
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32"),
        labels=labels,
        base=deep,
        folds=(Fold(train=rows[0], race=rows[1]),),
        features=lambda rows: deep.features([row.texts for row in rows], "keep_start"),
        work=10**9,
        seed=11,
    )


def quick(rung, **values):
    config = get_method(rung).Config(epochs=3.0, batch_size=4, **values)
    return dataclasses.replace(config, learning_rate=5e-3)


@pytest.mark.parametrize("rung", ["lora", "adapter", "full"])
def test_a_rung_with_the_option_answers_as_its_bracket_did(context, rung):
    method = get_method(rung)
    bracket = method.open(context, [quick(rung, top_layers=2), quick(rung)])
    assert bracket.notes[0].startswith(f"{rung}: the lower 2 of 4 blocks are computed once for 4 sequences (")
    bracket.advance(bracket.horizon)
    for member in range(2):
        answers = bracket.predictor(member).predict(context.fold.race)
        for answer, seen in zip(answers, bracket.predictions()[member], strict=True):
            assert answer.scores == pytest.approx(seen.scores, abs=1e-5)
    few, all_of_them = (bracket.trainable_parameters(member) - 3 * 33 for member in range(2))
    if rung != "full":
        assert few * 2 == all_of_them


@pytest.mark.parametrize("rung", ["lora", "adapter", "full"])
def test_the_work_and_memory_that_are_stated_are_those_of_the_blocks_above(context, rung):
    method, config = get_method(rung), quick(rung, top_layers=1)
    bracket = method.open(context, [config])
    loop = bracket.loops[0]
    loop.plan = dataclasses.replace(loop.plan, patience=99)
    tokens, race = loop.objective.train.tokens.tokens, loop.objective.race.tokens.tokens
    exact = dataclasses.replace(context, train_tokens=tokens, race_tokens=race, seconds_per_work=0.5)
    cost = method.cost(exact, config)
    spent = bracket.advance(bracket.horizon)
    assert spent == pytest.approx(cost.work, abs=loop.horizon)
    assert cost.seconds == cost.work * 0.5
    assert spent == pytest.approx(method.cost(exact, quick(rung)).work / 4, rel=0.05)
    assert cost.trainable_parameters == bracket.trainable_parameters(0)
    elsewhere = dataclasses.replace(exact, train_tokens=2 * tokens)
    more = method.cost(elsewhere, config).memory_bytes - cost.memory_bytes
    assert more == tokens * 32 * 4, "32 float32 numbers a token"


def test_too_many_rows_to_keep_are_paid_for_in_full(context):
    many = dataclasses.replace(context, train_tokens=frozen.KEPT_BYTES, race_tokens=0)
    method = get_method("lora")
    assert method.cost(many, quick("lora", top_layers=1)).work == method.cost(many, quick("lora")).work


def test_no_blocks_at_all_are_refused():
    with pytest.raises(ConfigError) as caught:
        quick("lora", top_layers=0)
    assert str(caught.value) == "lora: `top_layers` must be 1 or more, got 0. To train no block use 'linear_probe'."
