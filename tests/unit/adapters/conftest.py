"""Tiny bases of every architecture, one pass of a stack through them, and loops in float64."""

import copy

import numpy as np
import pytest
import torch

from tunewise.adapters.stack import Member, Pass
from tunewise.models.encoder import Encoder, collate
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tiny_causal import ARCHITECTURES as CAUSAL
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import ARCHITECTURES as SEQ2SEQ
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.models.tree import shared_tree
from tunewise.training.adapted import StackedPopulation
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart, repeated
from tunewise.training.rows import Rows

TEXTS = [("the card was stolen",), ("how do I reset the password of my account",), ("never dull",)]
WORDS = ["card", "stolen", "payment", "pending", "reset", "account", "film", "charm", "dull", "worst", "order"]


@pytest.fixture(scope="session")
def base_of(tmp_path_factory, one_thread):
    made = {}

    def base(architecture):
        if architecture not in made:
            makes = {**dict.fromkeys(CAUSAL, tiny_causal), **dict.fromkeys(SEQ2SEQ, tiny_seq2seq)}
            make = makes.get(architecture, tiny_encoder)
            folder = make(tmp_path_factory.mktemp("bases"), architecture=architecture)
            made[architecture] = load_base(str(folder), device="cpu", dtype="float32")
        return made[architecture]

    return base


def batch_of(base):
    tokens = base.encode(TEXTS, "keep_start")
    return collate(tokens, range(len(TEXTS)), pad_id=base.pad_id, device=base.device)


def states(base, model, batch):
    """Hidden states of what is text, [tokens, H]."""
    encoder = copy.copy(base)
    encoder.model = model
    with torch.no_grad():
        return encoder.forward(batch)[batch.attention_mask_ST.bool()]


@pytest.fixture(scope="session")
def hidden():
    """Hidden states [tokens, H] of a few texts, by a module tree of a base."""
    return lambda base, model: states(base, model, batch_of(base))


@pytest.fixture(scope="session")
def stacked_hidden():
    """Hidden states [P, tokens, H] of a few texts, by all members of a stack in one pass."""

    def run(base, make, tensors, **now):
        tree, batch = shared_tree(base.model), batch_of(base)
        stack = make(tree)
        stack.bind(tensors)
        sequences, positions = batch.input_ids_ST.shape
        members = len(stack.members)
        stack.now = Pass(active=tuple(range(members)), sequences=sequences, positions=positions, **now)
        whole = states(base, stack.attach(tree), repeated(batch, members))
        return whole.view(members, -1, whole.shape[-1])

    return run


@pytest.fixture(scope="session")
def moved():
    """A stack's tensors, away from their start by numbers that differ from member to member."""

    def move(stack, dtype=torch.float32):
        rng = torch.Generator().manual_seed(3)
        return {name: t + 0.1 * torch.randn(t.shape, generator=rng) for name, t in stack.start(dtype).items()}

    return move


class DoubleEncoder(Encoder):
    """Pools in float64, so that rounding does not hide a difference."""

    def pool_sequences(self, hidden_STH, batch):
        weight_ST = batch.attention_mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)


def rows_of(base, count, seed):
    rng = np.random.default_rng(seed)
    texts = [(" ".join(rng.choice(WORDS, size=rng.integers(1, 12))),) for _ in range(count)]
    return Rows(base.encode(texts, "keep_start"), np.array([len(text[0]) % 3 for text in texts]))


MEMBERS = [Member(scale=0.5 + p, seed=p, dropout=0.2 * p) for p in range(3)]
SETTINGS = [Settings(learning_rate=10 ** (-2 - p / 4), weight_decay=0.1 * p, warmup_share=0.1 * p) for p in range(3)]


@pytest.fixture
def loop_of(tiny):
    """A loop in float64 over some of three members that differ in all they may."""
    base = copy.copy(tiny)
    base.__class__ = DoubleEncoder
    base.model = shared_tree(tiny.model, torch.float64)
    train, race = rows_of(tiny, 22, seed=0), rows_of(tiny, 13, seed=1)

    def build(make, members):
        chosen = [MEMBERS[p] for p in members]
        population = StackedPopulation(base, lambda tree: make(tree, chosen), HeadStart(labels=3))
        plan = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)
        return Loop(population, Labels(train, race, 3), plan, [SETTINGS[p] for p in members])

    return build


@pytest.fixture
def ends_as_alone(loop_of):
    """Whether each of three members, trained together, ends as it does alone, and has learnt."""

    def compare(make):
        together = loop_of(make, [0, 1, 2])
        start = together.population.flat.values_PN.clone()
        together.advance(together.horizon)
        for p in range(3):
            alone = loop_of(make, [p])
            alone.advance(alone.horizon)
            end_N = together.population.flat.values_PN[p]
            assert float((alone.population.flat.values_PN[0] - end_N).abs().max()) < 1e-10
            np.testing.assert_allclose(alone.curve(0).dev_losses, together.curve(p).dev_losses, atol=1e-10)
            for slot in together.population.flat.slots:
                learnt_N = (end_N - start[p])[slot.start : slot.stop]
                # a key's bias adds the same to every score, and softmax does not see it
                assert float(learnt_N.abs().max()) > 1e-3 or "key.bias" in slot.name, f"{slot.name} has not learnt"

    return compare
