"""Hidden states of inner layers: as transformers gives them, one row like another, computed once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.errors import ModelError
from tunewise.models.embed import FeatureStore, searched_layers
from tunewise.models.encoder import Encoder
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.types import Example

MAKERS: dict[str, Callable[..., Path]] = {
    **dict.fromkeys(("bert", "distilbert", "modernbert", "deberta-v2"), tiny_encoder),
    **dict.fromkeys(("llama", "gpt2", "gpt_neox", "bloom"), tiny_causal),
    **dict.fromkeys(("t5", "bart"), tiny_seq2seq),
}
ROWS = [("my card was stolen",), ("a film of great charm and never dull " * 3,), ("refund",)]


@pytest.fixture(params=list(MAKERS))
def base(request: pytest.FixtureRequest, tmp_path: Path, one_thread: None) -> Encoder:
    folder = MAKERS[request.param](tmp_path / "base", architecture=request.param)
    return load_base(str(folder), device="cpu", dtype="float32")


def test_a_layer_is_what_transformers_calls_its_hidden_states(base: Encoder) -> None:
    layers = tuple(range(base.depth + 1))
    found_KNH = base.layer_features(ROWS, "refuse", layers)
    for place, row in enumerate(ROWS):
        tokens = base.encode([row], "refuse")
        ids = torch.tensor(tokens.ids[0])[None]
        with torch.no_grad():
            states = base.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            ).hidden_states
        assert len(states) == base.depth + 1
        for layer in layers:
            # one text without padding: its mean, but where a base reads another token
            pooled_H = states[layer][0].mean(dim=0) if base.info.pooling == "mean" else states[layer][0, -1]
            np.testing.assert_allclose(found_KNH[layer, place], pooled_H.numpy(), atol=1e-5)
    assert np.abs(found_KNH[1] - found_KNH[0]).max() > 1e-3


def test_a_layer_that_is_not_there_is_named(base: Encoder) -> None:
    with pytest.raises(ModelError, match=f"layer {base.depth + 1} was asked for; its layers are 0 to {base.depth}"):
        base.layer_features(ROWS, "refuse", (base.depth + 1,))


def test_layers_worth_trying_lie_inside() -> None:
    assert searched_layers(12) == (9, 6, 3)
    assert searched_layers(2) == (1,)  # a half; three quarters are all of it
    assert searched_layers(1) == ()


def test_layers_are_computed_once_and_kept(tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(id=str(i), fields={"text": row[0]}) for i, row in enumerate(ROWS)]
    store = FeatureStore(tiny, "keep_start", examples, tmp_path / "features")
    expected_KNH = tiny.layer_features(ROWS, "keep_start", (1,))
    np.testing.assert_array_equal(store(examples[::-1], 1), expected_KNH[0][::-1])
    np.testing.assert_array_equal(store(examples), tiny.features(ROWS, "keep_start"))
    monkeypatch.setattr(tiny, "layer_features", None)
    monkeypatch.setattr(tiny, "features", None)
    again = FeatureStore(tiny, "keep_start", examples, tmp_path / "features")
    np.testing.assert_array_equal(again(examples[1:], 1), expected_KNH[0][1:])
    np.testing.assert_array_equal(again(examples), store(examples))
