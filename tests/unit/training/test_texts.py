"""Learning to write: the loss and the gradients are transformers' own, and the loop keeps all that it keeps for labels.

Axes: N tokens, V vocabulary, H hidden.
"""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tunewise.adapters.lora import LoraStack, target_layers
from tunewise.adapters.stack import Member
from tunewise.models.load import load_base
from tunewise.models.prefix_tree import Request
from tunewise.models.tiny_causal import ARCHITECTURES, tiny_causal
from tunewise.models.tree import shared_tree
from tunewise.training import vocabulary
from tunewise.training.adapted import StackedPopulation
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.texts import Texts, Writing
from tunewise.training.vocabulary import token_log_probabilities, token_losses
from tunewise.training.whole import FullPopulation

PLAN = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)
SETTINGS = [
    Settings(learning_rate=10 ** (-2 - p / 4), weight_decay=0.1 * (p % 2), label_smoothing=0.1 * (p % 3))
    for p in range(4)
]
MEMBERS = [Member(scale=0.5 + p, seed=p // 2, dropout=0.1 * (p % 2)) for p in range(4)]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory, one_thread):
    made = {}

    def base(architecture="llama", dtype=torch.float64):
        if architecture not in made:
            folder = tiny_causal(tmp_path_factory.mktemp("texts") / architecture, architecture=architecture)
            made[architecture] = load_base(str(folder), device="cpu", dtype="float32")
        own = made[architecture]
        return own.over(shared_tree(own.whole, dtype))

    return base


def texts(base, count, seed):
    rng = np.random.default_rng(seed)
    return Texts(
        base,
        tuple(
            Request(rng.integers(4, 500, rng.integers(1, 20)), np.append(rng.integers(4, 500, rng.integers(1, 9)), 2))
            for _ in range(count)
        ),
    )


def lora(base, members, plan=PLAN, rows=None, race=None):
    rows, race = rows or texts(base, 17, 0), race or texts(base, 9, 1)
    chosen, targets = [MEMBERS[p] for p in members], target_layers(base.model)
    population = StackedPopulation(base, lambda tree: LoraStack(tree, chosen, rank=2, targets=targets))
    return Loop(population, Writing(rows, race), plan, [SETTINGS[p] for p in members])


def full(base, plan=PLAN, rows=None, race=None, **options):
    rows, race = rows or texts(base, 17, 0), race or texts(base, 9, 1)
    used = np.unique(np.concatenate([*rows.tokens.ids, *race.tokens.ids]))
    population = FullPopulation(base, None, used_tokens=used, dtype=base.dtype, seed=5, **options)
    return Loop(population, Writing(rows, race), plan, [Settings(learning_rate=1e-2)])


def of_transformers(whole, base, rows):
    """The loss that a model of the library gives for these rows, prompts left out of it, padding behind."""
    width = max(len(r.context) + len(r.continuation) for r in rows.requests)
    ids = torch.full((len(rows.requests), width), base.pad_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, request in enumerate(rows.requests):
        start, end = len(request.context), len(request.context) + len(request.continuation)
        ids[i, :end] = torch.from_numpy(np.concatenate([request.context, request.continuation]))
        mask[i, :end], labels[i, start:end] = 1, ids[i, start:end]
    return whole(input_ids=ids, attention_mask=mask, labels=labels).loss


def close(first, second, tolerance=1e-10):
    return float((first - second).abs().max()) < tolerance


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_of_every_weight_are_those_of_transformers(base_of, architecture):
    # the library adds up in float32
    base = base_of(architecture, torch.float32)
    rows = texts(base, 6, 2)
    loop = full(base, rows=rows, race=rows)
    (loss,) = loop._gradients(np.arange(6), [0])
    whole = copy.deepcopy(base.whole).requires_grad_()
    expected = of_transformers(whole, base, rows)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    ours = loop.population.export(loop.population.flat.grads_PN[0])
    theirs = dict(whole.named_parameters())
    assert ours.keys() == theirs.keys()
    table = loop.population._table_name
    for name, gradient in ours.items():
        wanted = theirs[name].grad
        if name == table:
            used = loop.population._used_U
            gradient, wanted = gradient[used], wanted[used]
        assert close(gradient, wanted, 2e-5 * max(1.0, float(wanted.abs().max()))), name


class Largest(TorchDispatchMode):
    """The most bytes of a storage that a pass made."""

    def __init__(self, known):
        super().__init__()
        self.known, self.nbytes = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.nbytes = max(self.nbytes, storage.nbytes())
        return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_no_gradient_of_the_vocabulary_s_size_is_made_beside_the_one_that_is_kept(base_of, architecture):
    base = base_of(architecture)
    loop = full(base, rows=texts(base, 2, 2))
    loop._gradients(np.arange(2), [0])
    flat = loop.population.flat
    with Largest([flat.values_PN, flat.grads_PN, *base.whole.parameters()]) as largest:
        loop._gradients(np.arange(2), [0])
    assert 0 < largest.nbytes < base.vocabulary * base.info.hidden_size * 8


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_dev_loss_at_the_start_is_that_of_transformers(base_of, architecture):
    base = base_of(architecture, torch.float32)
    rows = texts(base, 9, 1)
    loop = lora(base, [0, 1], race=rows)
    answers_AEK = loop.score(rows, [0, 1])
    with torch.no_grad():
        expected = float(of_transformers(base.whole, base, rows))
    for answers_EK in answers_AEK:
        assert loop.objective.dev_losses(answers_EK)[0] == pytest.approx(expected, abs=1e-5)


def test_tokens_in_parts_are_tokens_at_once(base_of, monkeypatch):
    base = base_of()
    weight = torch.nn.Parameter(base.read_weights[0].detach().clone())
    hidden_NH = torch.randn(7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    token_N = torch.tensor([5, 9, 2, 400, 30, 5, 77])
    smoothing_N = torch.tensor([0.0, 0.1, 0.3, 0.0, 0.5, 0.2, 0.0])
    own = base.over(shared_tree(base.whole))
    own.whole.get_output_embeddings().weight = weight
    expected = 0.0
    for hidden_H, token, share in zip(hidden_NH, token_N, smoothing_N, strict=True):
        logits_V = weight @ hidden_H
        expected = expected + F.cross_entropy(logits_V, token, label_smoothing=float(share))
    wanted = torch.autograd.grad(3.0 * expected, [hidden_NH, weight])
    for held in (1, 3 * base.vocabulary, vocabulary.LOGITS):
        monkeypatch.setattr(vocabulary, "LOGITS", held)
        loss = token_losses(own, hidden_NH, token_N, smoothing_N)
        found = torch.autograd.grad(3.0 * loss, [hidden_NH, weight])
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-7)
        assert all(close(a, b, 1e-7) for a, b in zip(found, wanted, strict=True))
        log_N = token_log_probabilities(own, hidden_NH, token_N)
        assert close(log_N, torch.log_softmax(hidden_NH @ weight.T, -1).detach()[torch.arange(7), token_N], 1e-10)


def test_a_member_of_four_ends_as_the_same_candidate_alone(base_of):
    base = base_of("gpt2")  # Llama's norms round to float32 whatever they are given
    together = lora(base, range(4))
    start_PN = together.population.flat.values_PN.clone()
    together.advance(together.horizon)
    for p in range(4):
        alone = lora(base, [p])
        alone.advance(alone.horizon)
        assert close(alone.population.flat.values_PN[0], together.population.flat.values_PN[p])
        assert close(alone.best_answers_PEK[0], together.best_answers_PEK[p])
        np.testing.assert_allclose(alone.curve(0).dev_losses, together.curve(p).dev_losses, atol=1e-10)
        assert not close(start_PN[p], together.population.flat.values_PN[p], 1e-3), "it must have learnt"
        assert together.curve(p).dev_losses[-1] < together.curve(p).dev_losses[0]


@pytest.mark.parametrize("budget", [1, 40, 90])
def test_micro_batches_of_any_size_take_the_same_steps(base_of, budget):
    base = base_of("gpt2")
    small = dataclasses.replace(Plan(epochs=1, batch_size=7, seed=3), tokens_per_pass=budget)
    whole = dataclasses.replace(small, tokens_per_pass=100_000)
    for build in (lambda plan: lora(base, [0, 2], plan), lambda plan: full(base, plan)):
        one, many = build(whole), build(small)
        one.advance(one.horizon)
        many.advance(many.horizon)
        assert close(one.population.flat.values_PN, many.population.flat.values_PN)
        np.testing.assert_allclose(one.curve(0).train_losses, many.curve(0).train_losses, atol=1e-10)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resuming_is_exact(base_of, kind):
    base = base_of()
    build = (lambda: lora(base, [0, 1, 3])) if kind == "lora" else (lambda: full(base))
    straight = build()
    straight.advance(straight.horizon)
    runner = build()
    for step in (1, 3, straight.horizon - 1):
        runner.advance(step)
        tensors, meta = runner.state()
        resumed = build()
        resumed.restore({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(meta, allow_nan=False)))
        resumed.advance(resumed.horizon)
        assert torch.equal(resumed.population.flat.values_PN, straight.population.flat.values_PN)
        assert torch.equal(resumed.best_answers_PEK, straight.best_answers_PEK)


def test_every_token_counts_the_same_and_the_prompts_do_not(base_of):
    """Of two rows the one with more tokens in its answer weighs more, however long the prompts are."""
    base = base_of()
    rows = Texts(
        base, (Request(np.arange(5, 45), np.array([9, 2])), Request(np.array([7]), np.array([8, 30, 31, 32, 33, 2])))
    )
    loop = lora(base, [0], rows=rows, race=rows)
    (loss,) = loop._gradients(np.arange(2), [0])
    answers_E = loop.score(rows, [0])[0, :, 0]
    assert rows.wanted_E.tolist() == [2, 6]
    assert loss == pytest.approx(float(answers_E.sum()) / 8, abs=1e-10)


def test_a_row_that_does_not_fit_is_not_read_and_not_counted(base_of):
    base = base_of()
    known = texts(base, 3, 4)
    race = Texts(base, (known.requests[0], None, *known.requests[1:]))
    loop = lora(base, [0, 1], race=race)
    answers_AEK = loop.score(race, [0, 1])
    assert torch.isnan(answers_AEK[:, 1]).all()
    assert close(answers_AEK[:, [0, 2, 3]], lora(base, [0, 1], race=known).score(known, [0, 1]))
    mean, _ = loop.objective.dev_losses(answers_AEK[0])
    assert mean == pytest.approx(float(answers_AEK[0, [0, 2, 3]].sum()) / int(known.wanted_E.sum()))
    with pytest.raises(AssertionError, match="a row without anything to learn"):
        Writing(race, known)


def test_checkpointing_and_top_layers_learn_too(base_of):
    from tunewise.training.frozen import LowerBlocks

    base = base_of(dtype=torch.float32)
    rows = texts(base, 8, 0)
    plain, again = full(base, rows=rows, race=rows), full(base, rows=rows, race=rows, checkpointing=True)
    plain.advance(2)
    again.advance(2)
    assert close(plain.population.flat.values_PN, again.population.flat.values_PN, 1e-6)
    top = full(base, rows=rows, race=rows, lower=LowerBlocks(base, 1, [rows.tokens]))
    top.advance(top.horizon)
    exported = top.export(0)
    assert exported.keys() == dict(base.whole.named_parameters()).keys()
    changed = {name for name, own in base.whole.named_parameters() if not torch.equal(own, exported[name])}
    assert changed == {name for name in exported if ".layers.1." in name}
