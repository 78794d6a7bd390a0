"""What a candidate is expected to take, where the base has an encoder and a decoder."""

import dataclasses
import shutil
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
    assert cost("full", context_of(base, "classify")).trainable_parameters == weights(base.model) + head
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


def test_a_decoder_that_is_deeper_than_its_encoder_keeps_more(base: Any) -> None:
    context = context_of(base, "generate")
    plain = cost("lora", context).memory_bytes
    decoder = context.base.body.decoder
    name, blocks = next((n, m) for n, m in decoder.named_children() if isinstance(m, torch.nn.ModuleList))
    setattr(decoder, name, torch.nn.ModuleList([*blocks, *blocks]))  # the same weights, passed twice
    try:
        assert cost("lora", context).memory_bytes > 1.8 * plain
    finally:
        setattr(decoder, name, blocks)
