"""Packed layers answer as plain ones do, and give way where they cannot."""

import pytest
import torch
from torch import nn

from tunewise.models import encoder as module
from tunewise.models.load import load_base
from tunewise.models.packed import packed
from tunewise.models.tiny import ARCHITECTURES, TEXTS, tiny_encoder

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 16)
        self.intermediate_act_fn = nn.GELU()
        self.output = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.intermediate_act_fn(self.dense(x)))


@needs_onednn
def test_the_packed_model_is_another_with_the_same_answers() -> None:
    model, x = Block(), torch.randn(4, 8)
    with torch.inference_mode():
        twin = packed(model, 4, lambda m: m(x))
        assert twin is not model
        assert type(twin.output) is not nn.Linear
        assert isinstance(twin.intermediate_act_fn, nn.Identity)
        assert type(model.output) is nn.Linear
        assert isinstance(model.intermediate_act_fn, nn.GELU)
        torch.testing.assert_close(twin(x), model(x), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_other_activations_are_left_where_they_are() -> None:
    model, x = Block(), torch.randn(4, 8)
    model.intermediate_act_fn = nn.GELU(approximate="tanh")
    with torch.inference_mode():
        twin = packed(model, 4, lambda m: m(x))
        assert isinstance(twin.intermediate_act_fn, nn.GELU)
        torch.testing.assert_close(twin(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_model_that_uses_the_weights_itself_stays_plain() -> None:
    class Tied(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(super().forward(x), self.dense.weight)

    model, x = Tied(), torch.randn(4, 8)
    with torch.inference_mode():
        assert packed(model, 4, lambda m: m(x)) is model


def test_a_model_whose_packed_answers_differ_stays_plain() -> None:
    model, x = Block(), torch.randn(4, 8)
    with torch.inference_mode():
        wrong = packed(model, 4, lambda m: m(x) if m is model else m(x) + 0.1)
    assert wrong is model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_of_many_rows_are_those_of_few(architecture, tmp_path, monkeypatch) -> None:
    base = load_base(str(tiny_encoder(tmp_path, architecture=architecture)), device="cpu", dtype="float32")
    rows = [(text,) for text in TEXTS]
    plain = base.features(rows, "keep_start")
    monkeypatch.setattr(module, "PACKED_FROM", 0)
    torch.testing.assert_close(base.features(rows, "keep_start"), plain, atol=1e-5, rtol=1e-4)
