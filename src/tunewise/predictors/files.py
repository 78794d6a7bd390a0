"""JSON and tensors in a predictor's folder; damage is told by the file's name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tunewise.errors import BundleError


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """A JSON object; texts that are not valid Unicode survive as escapes."""
    path.write_text(json.dumps(dict(settings), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_settings(path: Path, keys: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """The object that `write_settings` wrote.

    Raises:
        BundleError: missing, not JSON, or a key is missing or of the wrong type.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name}: cannot be read ({error}). The bundle is damaged.") from error
    for key, kind in keys.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise BundleError(f"{path.name}: `{key}` is missing or of the wrong type. The bundle is damaged.")
    return dict(found)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name, as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote, each of the shape expected.

    Raises:
        BundleError: missing, damaged, or a shape differs.
    """
    try:
        found: dict[str, np.ndarray] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path.name}: cannot be read ({error}). The bundle is damaged.") from error
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            has = f"has shape {found[name].shape}" if name in found else "is missing"
            raise BundleError(f"{path.name}: `{name}` {has}, expected {shape}. It does not fit its base or labels.")
    return found
