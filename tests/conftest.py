"""What every test shares: no network, one thread, and one tiny base."""

import os
from pathlib import Path

import pytest

for _key, _value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_key, _value)


@pytest.fixture(scope="session")
def one_thread() -> None:
    """More threads than cores make small products slower, and their sums differ in the last bit."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT of a few thousand weights."""
    from tunewise.models.tiny import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("bases") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny(tiny_base: Path, one_thread: None):
    """The same, loaded in float32 on the CPU."""
    from tunewise.models.load import load_base

    return load_base(str(tiny_base), device="cpu", dtype="float32")
