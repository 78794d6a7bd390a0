"""What a base has learnt of words by filling gaps is worth something: a tiny one is pre-trained here, for seconds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Bracket, Context, Fold
from tunewise.models.load import load_base, quiet_transformers
from tunewise.models.tiny import tiny_masked
from tunewise.types import Example

WORDS = {
    "billing": ["invoice", "charge", "payment", "price", "card"],
    "crash": ["error", "screen", "freeze", "application", "bug"],
    "login": ["password", "account", "reset", "locked", "code"],
}
OTHERS = ["the", "my", "please", "help", "now", "again", "today", "is", "with"]


def sentence(rng: np.random.Generator, *words: str, of: str) -> str:
    chosen = [*words, *rng.choice(WORDS[of], 2, replace=False), *rng.choice(OTHERS, rng.integers(3, 7))]
    return " ".join(map(str, rng.permutation(chosen)))


def pretrained(folder: Path, corpus: list[str]) -> None:
    """Let the base in this folder fill gaps in these sentences: their topics, and a tenth of all words."""
    tokenizer, generator = AutoTokenizer.from_pretrained(folder), torch.Generator().manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(folder).train()
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(0.3)  # tiny bases start wider than is good for training
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    read = tokenizer(corpus, padding=True, return_tensors="pt")
    topics = torch.tensor(tokenizer.convert_tokens_to_ids(list(WORDS)))
    for _ in range(150):
        picked = torch.randint(0, len(corpus), (48,), generator=generator)
        ids, seen = read["input_ids"][picked].clone(), read["attention_mask"][picked]
        some = (torch.rand(ids.shape, generator=generator) < 0.1) & (ids > tokenizer.mask_token_id)
        gaps = some | torch.isin(ids, topics)
        wanted = torch.where(gaps, ids, torch.full_like(ids, -100))
        ids[gaps] = tokenizer.mask_token_id
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=seen, labels=wanted).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def context_of(folder: Path) -> Context:
    base = load_base(str(folder), device="cpu", dtype="float32")
    task = Task(
        data=DataConfig(train="in-memory.csv"),
        models=(str(folder),),
        dtype="float32",
        budget=Budget(work=10**9),
        truncation="keep_start",
    )
    rng, labels = np.random.default_rng(7), tuple(WORDS)
    rows = tuple(
        Example(id=str(i), fields={"text": sentence(rng, of=labels[i % 3])}, target=labels[i % 3]) for i in range(72)
    )
    fold = Fold(train=rows[:12], race=rows[12:])
    features = lambda examples: base.features([e.texts for e in examples], "keep_start")  # noqa: E731
    return Context(
        task=task, labels=labels, base=base, folds=(fold,), features=features, work=10**9, seed=3, train_tokens=150
    )


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Context]:
    rng = np.random.default_rng(0)
    corpus = [sentence(rng, topic, of=topic) for topic in WORDS for _ in range(400)]
    folders = {name: tiny_masked(tmp_path_factory.mktemp(name), texts=corpus) for name in ("random", "trained")}
    with quiet_transformers():
        pretrained(folders["trained"], corpus)
    return {name: context_of(folder) for name, folder in folders.items()}


def learnt(context: Context, **changes: object) -> Bracket:
    method = get_method("cloze")
    config = dataclasses.replace(method.default(context), epochs=8.0, batch_size=6, **changes)
    bracket = method.open(context, [config])
    bracket.advance(bracket.horizon)
    return bracket


def accuracy(bracket: Bracket, context: Context) -> float:
    pairs = zip(bracket.predictions()[0], context.race, strict=True)
    return float(np.mean([answer.text == row.target for answer, row in pairs]))


def test_from_words_that_a_base_knows_twelve_rows_are_enough(contexts: dict[str, Context]) -> None:
    known, unknown = (learnt(contexts[name]) for name in ("trained", "random"))
    from_zero = learnt(contexts["trained"], head_init="zeros")
    assert accuracy(known, contexts["trained"]) > 0.95
    assert accuracy(unknown, contexts["random"]) < 0.6
    assert known.losses().mean() < 0.2 * from_zero.losses().mean()
    assert known.losses().mean() < 0.2 * unknown.losses().mean()


def test_without_a_row_of_train_the_words_are_enough_too(contexts: dict[str, Context]) -> None:
    method, context = get_method("zero_shot"), contexts["trained"]
    bracket = method.open(context, [method.default(context)])
    bracket.advance(bracket.horizon)
    assert accuracy(bracket, context) > 0.9


def test_the_words_that_are_searched_are_those_that_the_base_has_for_the_rows(contexts: dict[str, Context]) -> None:
    context = contexts["trained"]
    senseless = {"billing": "now", "crash": "today", "login": "again"}
    asked = dataclasses.replace(context, task=dataclasses.replace(context.task, words=senseless))
    bracket = learnt(asked, words="searched")
    assert "'billing' for billing, 'crash' for crash, 'login' for login" in " ".join(bracket.notes)
    assert bracket.losses().mean() < 0.5 * learnt(asked).losses().mean()
