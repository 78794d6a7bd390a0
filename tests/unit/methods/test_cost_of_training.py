"""What a candidate is expected to take, where the base has an encoder and a decoder."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_seq2seq import ARCHITECTURES, tiny_seq2seq
from tunewise.types import Example

ROWS = tuple(Example(id=str(i), fields={"text": f"card {i}"}, target=("card", "bill")[i % 2]) for i in range(12))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Any:
    folder = tiny_seq2seq(tmp_path_factory.mktemp("base"), architecture=request.param)
    return load_base(str(folder), device="cpu", dtype="float32")


def context_of(base: Any, kind: str) -> Context:
    task = Task(
        kind=kind,  # type: ignore[arg-type]
        data=DataConfig(train="x.csv"),
        models=("b",),
        dtype="float32",
        budget=Budget(work=10**8),
    )
    return Context(
        task=task,
        labels=("bill", "card") if kind == "classify" else (),
        base=base,
        folds=(Fold(train=ROWS, race=ROWS[:3]),),
        features=FeatureStore(base, "keep_start", (), None),
        work=10**8,
        seed=1,
        train_tokens=100,
        race_tokens=30,
    )


def cost(rung: str, context: Context) -> Any:
    method = get_method(rung)
    return method.cost(context, dataclasses.replace(method.default(context), epochs=1.0))


def weights(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_where_labels_are_read_off_the_encoder_the_decoder_costs_nothing(base: Any) -> None:
    head = 2 * (base.info.hidden_size + 1)
    for rung in ("full", "contrastive"):
        assert cost(rung, context_of(base, "classify")).trainable_parameters == weights(base.model) + head
    assert weights(base.model) < base.info.parameters
    assert cost("full", context_of(base, "generate")).trainable_parameters == base.info.parameters


def test_what_reads_the_vocabulary_is_counted_where_it_is_a_table_of_its_own(base: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base.info.path, tmp_path / "untied"))
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    context = context_of(load_base(str(folder), device="cpu", dtype="float32"), "generate")
    method = get_method("full")
    config = dataclasses.replace(method.default(context), epochs=1.0)
    bracket = method.open(context, [config])
    assert method.cost(context, config).trainable_parameters == bracket.trainable_parameters(0)


def test_vectors_of_the_decoder_are_paid_once_for_a_bracket(base: Any) -> None:
    context, method = context_of(base, "classify"), get_method("prefix_tuning")
    plain = dataclasses.replace(method.default(context), epochs=1.0)

    def spent(*lengths: int) -> int:
        bracket = method.open(context, [dataclasses.replace(plain, length=length) for length in lengths])
        return bracket.advance(bracket.horizon)

    assert spent(8, 16) == spent(8) + spent(16) - context.train_tokens
    zeros = dataclasses.replace(plain, head_init="zeros")
    assert method.cost(context, plain).work == method.cost(context, zeros).work


def test_where_labels_are_read_at_the_answer_texts_pass_the_encoder_alone(base: Any) -> None:
    context = context_of(base, "classify")
    inner = base.for_texts().body
    plain = {rung: cost(rung, context).memory_bytes for rung in ("cloze", "prefix_tuning")}
    assert plain["prefix_tuning"] < plain["cloze"], "all that it trains is above the encoder"
    with deeper(inner.decoder):
        assert cost("cloze", context).memory_bytes == plain["cloze"]
    with deeper(inner.encoder):
        assert cost("cloze", context).memory_bytes > 1.8 * plain["cloze"]
        assert cost("prefix_tuning", context).memory_bytes == plain["prefix_tuning"]


@contextlib.contextmanager
def deeper(stack: torch.nn.Module) -> Iterator[None]:
    """Its blocks are passed twice."""
    name, blocks = next((n, m) for n, m in stack.named_children() if isinstance(m, torch.nn.ModuleList))
    setattr(stack, name, torch.nn.ModuleList([*blocks, *blocks]))
    try:
        yield
    finally:
        setattr(stack, name, blocks)


def test_a_decoder_that_is_deeper_than_its_encoder_keeps_more(base: Any) -> None:
    context = context_of(base, "generate")
    plain = cost("lora", context).memory_bytes
    with deeper(context.base.body.decoder):
        assert cost("lora", context).memory_bytes > 1.8 * plain
