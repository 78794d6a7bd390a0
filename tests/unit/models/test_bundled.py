"""The bases that are installed with the project: whole, small, and better than a guess at text they never read."""

from pathlib import Path

import pytest
import torch

from tunewise.models.causal import Causal
from tunewise.models.load import BUNDLED, describe_base, load_base
from tunewise.models.masked import Masked

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
    assert bits < 1.8, bits
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == text
    turns = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert turns.startswith("<s><|user|>Hello")
    assert turns.endswith("<|assistant|>")


def test_the_masked_base_fills_gaps(one_thread: None) -> None:
    base = load_base("bundled:masked", device="cpu", dtype="float32")
    assert isinstance(base, Masked)
    text = "The file is opened for reading, and every line is printed. If the file does not exist, it says so."
    ids = torch.tensor(base.tokenizer(text).input_ids)
    places = torch.arange(1, len(ids) - 1)
    shown = ids.repeat(len(places), 1)
    shown[torch.arange(len(places)), places] = base.mask_id
    with torch.no_grad():
        said = base.whole(input_ids=shown).logits[torch.arange(len(places)), places].argmax(dim=-1)
    assert (said == ids[places]).float().mean() > 0.5
