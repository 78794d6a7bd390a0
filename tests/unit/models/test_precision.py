"""Faster arithmetic is used only where it is as exact."""

import pytest
import torch

from tunewise.models import precision


def test_the_fast_path_has_float32_error_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(128, 384, generator=generator), torch.randn(384, 128, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    with precision.fast_float32():
        error = float((left @ right - exact).norm() / exact.norm())
    assert error < precision.FLOAT32_ERROR
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("passes", "expected"), [(True, "medium"), (False, "highest")])
def test_the_self_test_decides(monkeypatch: pytest.MonkeyPatch, passes, expected) -> None:
    monkeypatch.setattr(precision, "medium_is_float32", lambda: passes)
    monkeypatch.setattr(precision, "made_by_intel", lambda: False)
    with precision.fast_float32():
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"


def test_on_a_cpu_of_intels_the_usual_library_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "medium_is_float32", lambda: True)
    monkeypatch.setattr(precision, "made_by_intel", lambda: True)
    with precision.fast_float32():
        assert torch.get_float32_matmul_precision() == "highest"


def test_many_small_products_take_the_usual_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "medium_is_float32", lambda: True)
    monkeypatch.setattr(precision, "made_by_intel", lambda: False)
    with precision.fast_float32():
        with precision.many_small_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"


def test_the_self_test_fails_where_products_are_rounded_to_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b: linear(x.bfloat16(), w.bfloat16()).float() + b)
    precision.medium_is_float32.cache_clear()
    try:
        assert precision.medium_is_float32() is False
    finally:
        precision.medium_is_float32.cache_clear()


def test_a_setting_made_by_the_user_is_respected() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with precision.fast_float32():
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("avx", "amx", "fast"), [(True, False, True), (False, True, True), (False, False, False)])
def test_bf16_is_fast_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    precision.bf16_is_fast.cache_clear()
    try:
        assert precision.bf16_is_fast("cpu") is fast
    finally:
        precision.bf16_is_fast.cache_clear()


def test_attention_of_a_gpu_is_fused_where_its_gradients_are_numbers() -> None:
    gpu = torch.device("cuda")
    assert precision.attention("qwen3", gpu) == "sdpa"
    assert [precision.attention(each, gpu) for each in ("t5", "mt5", "deberta-v2")] == ["eager"] * 3
    assert precision.attention("qwen3", torch.device("cpu")) == "eager"
