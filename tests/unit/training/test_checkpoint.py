"""Checkpoints: whole or absent, verified, two kept, within the cap."""

import pytest
import torch

from tunewise.errors import RunError
from tunewise.training import checkpoint
from tunewise.training.checkpoint import load_checkpoint, save_checkpoint


def tensors_at(step):
    return {"values_PN": torch.full((3, 1000), float(step)), "steps_P": torch.tensor([step])}


def save(folder, step, **options):
    return save_checkpoint(folder, step, tensors_at(step), {"step": step, "why": "é"}, **options)


def load(folder):
    notes = []
    return load_checkpoint(folder, notes.append), notes


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path, 4)
    (step, tensors, meta), notes = load(tmp_path)
    assert step == 4
    assert meta == {"step": 4, "why": "é"}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in tensors_at(4).items())
    assert notes == []
    assert load(tmp_path / "nowhere") == (None, [])


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "gone"])
def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path, file, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    content = path.read_bytes()
    at = len(content) // 2
    if damage == "gone":
        path.unlink()
    else:
        torn = {"torn": content[:at], "empty": b""}.get(damage)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] if torn is None else torn)
    (step, tensors, _), notes = load(tmp_path)
    assert step == 1
    assert torch.equal(tensors["values_PN"], tensors_at(1)["values_PN"])
    assert len(notes) == 1
    assert "The one before it is used." in notes[0]
    assert "step-000000002" in notes[0]


def test_a_crash_while_writing_leaves_the_last_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(RunError, match="cannot be written"):
        save(tmp_path, 2)
    monkeypatch.undo()
    (tmp_path / ".writing-000000009").mkdir()
    assert load(tmp_path)[0][0] == 1
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000003"]


def test_a_state_over_the_cap_is_refused_and_the_last_one_stays(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(RunError, match=r"more than the 0.0 MB allowed. Raise `disk_gb`"):
        save(tmp_path, 2, cap_bytes=20_000)
    assert load(tmp_path)[0][0] == 1
