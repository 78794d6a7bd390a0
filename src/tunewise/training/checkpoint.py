"""States of training on disk: written whole or not at all, verified when read, the newest two kept."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise.errors import RunError

KEPT = 2
TENSORS, META = "state.safetensors", "state.json"
FORMAT = 1


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, cap_bytes: int | None = None
) -> Path:
    """Write `<folder>/step-<step>` atomically, then drop all but the newest two; returns where it lies.

    Raises:
        RunError: the state would take the folder over `cap_bytes`, or the disk refuses it. What was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    # the oldest of the two kept goes only when the new one is safe, so for a moment there are three
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if cap_bytes is not None and needed + held > cap_bytes:
        raise RunError(
            f"checkpoint: {folder} would hold {(needed + held) / 1e6:,.1f} MB, more than the {cap_bytes / 1e6:,.1f} MB "
            "allowed. Raise `disk_gb`, or delete old runs."
        )
    target, writing = folder / f"step-{step:09d}", folder / f".writing-{step:09d}"
    try:
        writing.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, writing / TENSORS)
        plain = {"format": FORMAT, "step": step, "sha256": _sha256(writing / TENSORS), "meta": meta}
        text = json.dumps(plain, allow_nan=False, sort_keys=True)
        (writing / META).write_text(text + "\n" + hashlib.sha256(text.encode()).hexdigest() + "\n", encoding="utf-8")
        for path in (writing / TENSORS, writing / META, writing):
            _sync(path)
        if target.exists():
            shutil.rmtree(target)
        os.replace(writing, target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunError(f"checkpoint: {target} cannot be written ({error}). Free disk space and resume.") from error
    for old in _all(folder)[KEPT:]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path, note: Callable[[str], None]) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Step, tensors and meta of the newest checkpoint that is whole; None where there is none.

    A damaged one is passed over, and `note` is told which and why.
    """
    for path in _all(folder):
        try:
            return _read(path)
        except RunError as error:
            note(f"{error} The one before it is used.")
    return None


def _read(path: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    try:
        text, _, digest = (path / META).read_text(encoding="utf-8").rstrip("\n").rpartition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise RunError(f"checkpoint: {path / META} is damaged (its hash differs).")
        plain = json.loads(text)
        if plain["format"] != FORMAT:
            raise RunError(f"checkpoint: {path} has format {plain['format']}, expected {FORMAT}.")
        if _sha256(path / TENSORS) != plain["sha256"]:
            raise RunError(f"checkpoint: {path / TENSORS} is damaged (its hash differs).")
        return int(plain["step"]), load_file(path / TENSORS), plain["meta"]
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise RunError(f"checkpoint: {path} cannot be read ({error}).") from error


def _all(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
