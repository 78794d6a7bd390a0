"""A tiny base in float64, two dozen labelled rows, and loops over them."""

import copy

import numpy as np
import pytest
import torch

from tunewise.adapters.lora import LoraStack, target_layers
from tunewise.adapters.stack import Member
from tunewise.models.encoder import Encoder
from tunewise.models.tree import shared_tree
from tunewise.training.adapted import StackedPopulation
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.training.whole import FullPopulation

WORDS = [
    "card",
    "stolen",
    "payment",
    "pending",
    "reset",
    "password",
    "account",
    "film",
    "charm",
    "dull",
    "worst",
    "product",
    "order",
    "refund",
    "crash",
]
LABELS = 3


class DoubleEncoder(Encoder):
    """Pools in float64, so that rounding does not hide a difference."""

    def pool_sequences(self, hidden_STH, batch):
        weight_ST = batch.attention_mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)


@pytest.fixture(scope="session")
def double(tiny):
    base = copy.copy(tiny)
    base.__class__ = DoubleEncoder
    base.model = shared_tree(tiny.model, torch.float64)
    return base


def rows_of(base, count, seed):
    rng = np.random.default_rng(seed)
    texts = [(" ".join(rng.choice(WORDS, size=rng.integers(1, 12))),) for _ in range(count)]
    target_E = np.array([len(text[0]) % LABELS for text in texts])
    return Rows(base.encode(texts, "keep_start"), target_E)


@pytest.fixture(scope="session")
def train(tiny):
    return rows_of(tiny, 22, seed=0)


@pytest.fixture(scope="session")
def race(tiny):
    return rows_of(tiny, 13, seed=1)


def used(*rows):
    return np.unique(np.concatenate([ids for each in rows for ids in each.tokens.ids]))


SETTINGS = [
    Settings(
        learning_rate=10 ** (-2 - p / 8),
        weight_decay=0.1 * (p % 3),
        warmup_share=0.1 * (p % 4),
        label_smoothing=0.05 * (p % 2),
    )
    for p in range(8)
]
MEMBERS = [Member(scale=0.5 + p, seed=p // 2, dropout=0.1 * (p % 3)) for p in range(8)]
PLAN = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)


@pytest.fixture
def lora_loop(double, train, race):
    def build(members, plan=PLAN, base=double, rows=train, dev=race, **options):
        chosen, targets = [MEMBERS[p] for p in members], target_layers(base.model)
        population = StackedPopulation(
            base, lambda tree: LoraStack(tree, chosen, rank=2, targets=targets), HeadStart(labels=LABELS)
        )
        return Loop(population, Labels(rows, dev, LABELS, **options), plan, [SETTINGS[p] for p in members])

    return build


@pytest.fixture
def full_loop(double, train, race):
    def build(member=0, plan=PLAN, base=double, dtype=torch.float64, rows=train, dev=race, **options):
        population = FullPopulation(
            base, HeadStart(labels=LABELS), used_tokens=used(rows, dev), dtype=dtype, seed=5, **options
        )
        return Loop(population, Labels(rows, dev, LABELS), plan, [SETTINGS[member]])

    return build
