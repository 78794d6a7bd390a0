"""Weights that nobody reads leave memory, and come back unchanged."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewise.models.mapped import set_aside


def held_bytes(file: Path) -> int:
    """Of a mapped file, in memory."""
    lines = iter(Path("/proc/self/smaps").read_text("utf-8").splitlines())
    for line in lines:
        if line.endswith(str(file.resolve())):
            return 1024 * int(next(each for each in lines if each.startswith("Rss:")).split()[1])
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told")
def test_weights_that_are_set_aside_leave_memory_and_come_back(tmp_path: Path) -> None:
    before = torch.arange(1_000_000, dtype=torch.float32)
    save_file({"weight": before}, tmp_path / "model.safetensors")
    weight = load_file(tmp_path / "model.safetensors")["weight"]
    weight[:1000] += 1.0
    assert torch.equal(weight[1000:], before[1000:])
    if held_bytes(tmp_path / "model.safetensors") < before.nbytes // 2:
        pytest.skip("this version of safetensors does not map files")
    set_aside(tmp_path)
    assert held_bytes(tmp_path / "model.safetensors") < before.nbytes // 2
    assert torch.equal(weight[1000:], before[1000:])
    assert torch.equal(weight[:1000], before[:1000] + 1.0), "what was changed stays"
