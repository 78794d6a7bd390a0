"""One member on disk: a config and its weights, exactly as the PEFT library writes and reads them."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise.adapters.lora import LoraForm
from tunewise.adapters.stack import Form
from tunewise.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FORMS: dict[str, type[Form]] = {form.peft_type: form for form in (LoraForm,)}
"""Every kind of adapter that can be read, by the type its config names."""


def save_adapter(
    tensors: Mapping[str, Tensor], form: Form, folder: Path, *, base_name: str = "", revision: str | None = None
) -> None:
    """Write one member's tensors as an adapter of the base `AutoModel`."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().float().cpu().contiguous() for name, tensor in form.to_disk(tensors).items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    plain = {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "peft_type": form.peft_type,
        "peft_version": version("peft"),
        "revision": revision,
        "task_type": "FEATURE_EXTRACTION",
        **form.config(tensors),
    }
    (folder / CONFIG).write_text(json.dumps(dict(sorted(plain.items())), indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], Form]:
    """One member's tensors in float32, and its form.

    Raises:
        ModelError: a file is missing or damaged, or it is a kind of adapter, or a use of one, that is not read here.
    """
    config = _read_config(folder)
    form = FORMS.get(config["peft_type"])
    if form is None:
        known = ", ".join(sorted(FORMS))
        raise ModelError(f"adapter: {folder} is of PEFT type {config['peft_type']}; only {known} are read here.")
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"adapter: {folder / WEIGHTS} cannot be read ({error}). Save the adapter again.") from error
    if not stored:
        raise ModelError(f"adapter: {folder / WEIGHTS} is empty. Save the adapter again.")
    try:
        return form.from_disk(config, {name: tensor.float() for name, tensor in stored.items()})
    except ValueError as error:
        raise ModelError(f"adapter: {folder} {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        plain: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter: {folder / CONFIG} cannot be read ({error}). Save the adapter again.") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("peft_type"), str):
        raise ModelError(f"adapter: {folder / CONFIG} has no `peft_type`; it is not a PEFT adapter.")
    return plain
