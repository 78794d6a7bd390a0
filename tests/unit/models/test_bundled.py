"""The bases that are installed with the project: whole, small, and better than a guess at text they never read."""

from pathlib import Path

import pytest
import torch

from tunewise.models.causal import Causal
from tunewise.models.load import BUNDLED, describe_base, load_base

OWN = sorted(name for name, bundled in BUNDLED.items() if bundled.package == "tunewise")


@pytest.mark.parametrize("name", OWN)
def test_it_is_whole_small_and_has_a_card(name: str) -> None:
    info = describe_base(f"bundled:{name}")
    folder = Path(info.path)
    assert (folder / "model.safetensors").stat().st_size <= 20_000_000
    assert info.sha256 == BUNDLED[name].sha256
    assert info.family == name
    assert info.english_only
    card = (folder / "README.md").read_text("utf-8")
    for part in ("license: apache-2.0", "## Data", "## Training", "## What it can do"):
        assert part in card


def test_the_causal_base_foresees_text_and_speaks_in_turns(one_thread: None) -> None:
    base = load_base("bundled:causal", device="cpu", dtype="float32")
    assert isinstance(base, Causal)
    tokenizer = base.tokenizer
    text = "The file is opened for reading, and every line is printed. If the file does not exist, it says so."
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
    with torch.no_grad():
        loss = float(base.whole(input_ids=ids, labels=ids).loss)
    bits = loss * (ids.shape[1] - 1) / torch.log(torch.tensor(2.0)).item() / len(text.encode())
    assert bits < 2.4, bits
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == text
    turns = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert turns.startswith("<s><|user|>Hello")
    assert turns.endswith("<|assistant|>")
