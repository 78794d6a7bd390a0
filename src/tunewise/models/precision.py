"""Faster arithmetic where this machine has it and it is right."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch

from tunewise.errors import ConfigError

FLOAT32_ERROR = 1e-5
"""Relative error above which arithmetic is not float32 any more: bf16 has 3e-3, fp32 sums of this length 1e-6."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def fast_float32() -> Iterator[None]:
    """Within it, float32 products on the CPU take the faster library where that one is as exact.

    `torch.set_float32_matmul_precision("medium")` hands them to oneDNN, twice as fast on AMD's CPUs without matrix
    units; on those with them (AMX) it means bf16, and on Intel's the usual library is as fast, and each of its calls
    takes less: nothing is changed.
    """
    before = torch.get_float32_matmul_precision()
    # on a GPU the same word means less exact products
    if before != "highest" or torch.cuda.is_available() or made_by_intel() or not medium_is_float32():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def made_by_intel() -> bool:
    """Whether this machine's CPU is Intel's, for which PyTorch's usual library of products (MKL) is written."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return False


@contextlib.contextmanager
def many_small_products() -> Iterator[None]:
    """Within it, float32 products on the CPU go to the library whose calls cost least.

    PyTorch's attention kernel multiplies blocks; for rows of 66 tokens with heads of 32 numbers it takes ten times as
    long through oneDNN, which prepares each product anew.
    """
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def medium_is_float32() -> bool:
    """Whether products at "medium" precision have float32's error on this machine's CPU."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 384, generator=generator)
    right = torch.randn(384, 384, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        products = [left @ right, torch.nn.functional.linear(left, right.T.contiguous(), torch.zeros(384))]
    finally:
        torch.set_float32_matmul_precision(before)
    return all(float((product - exact).norm() / exact.norm()) < FLOAT32_ERROR for product in products)


@functools.cache
def bf16_is_fast(device_type: str) -> bool:
    """Whether this kind of device multiplies bf16 in hardware: by what it can do, so that every run says the same.

    Timing it would be decided by whatever else the machine is doing, and with it the last digits of every result.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    if device_type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_device(asked: str) -> torch.device:
    """The device to compute on; "auto" is a GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"device: '{asked}' is not a device. Use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: '{asked}' was asked for, but PyTorch finds no GPU here. Use auto or cpu.")
    return device


def resolve_dtype(asked: str, device: torch.device) -> torch.dtype:
    """The number format of a base's weights; "auto" is float32, in which answers do not differ between machines.

    What is trained decides for itself whether it works in bf16 (`bf16_is_fast`).

    Raises:
        ConfigError: not one of auto, float32, bfloat16; or bfloat16 on a GPU that has none.
    """
    if asked == "auto":
        return torch.float32
    if asked not in DTYPES:
        raise ConfigError(f"dtype: '{asked}' is not known. Use auto, float32 or bfloat16.")
    if asked == "bfloat16" and device.type == "cuda" and not bf16_is_fast("cuda"):
        raise ConfigError("dtype: this GPU has no bfloat16. Use float32.")
    return DTYPES[asked]


def attention(architecture: str, device: torch.device) -> str:
    """Which attention a base is loaded with: plain products on the CPU, the fused kernel on a GPU.

    On the CPU, MiniLM at 25 tokens a row takes the same time for features either way; a training step through the
    fused kernel takes 1.05 times as long in float32 and 1.65 times in bf16. DeBERTa has no fused kernel. T5, whose
    learnt distances are a mask with a gradient, was trained through it on an H200 until a gradient was not a number
    (PyTorch issue 119320 may be why).
    """
    plain = architecture.startswith(("deberta", "t5", "mt5"))
    return "sdpa" if device.type == "cuda" and not plain else "eager"
