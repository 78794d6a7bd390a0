"""One member on disk: a config and its weights, exactly as the PEFT library writes and reads them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tunewise.adapters.bitfit import BitfitForm
from tunewise.adapters.bottleneck import BottleneckForm
from tunewise.adapters.ia3 import IA3Form
from tunewise.adapters.lora import PREFIX, LoraForm
from tunewise.adapters.peft_any import PeftForm, form_of
from tunewise.adapters.prefix import PrefixForm
from tunewise.adapters.soft_prompt import SoftPromptForm
from tunewise.adapters.stack import Form
from tunewise.errors import ConfigError, ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FORMS: dict[str, type[Form]] = {
    form.peft_type: form for form in (LoraForm, SoftPromptForm, PrefixForm, BitfitForm, IA3Form, BottleneckForm)
}
"""Every kind of adapter that is computed here, by the type its config names; others are left to the PEFT library."""
KEPT_BY = "kept_by"
"""In the header of the weights: "peft" where the library itself trained it, and so answers with it too."""


@dataclass(frozen=True)
class Use:
    """The model of the base that the PEFT library is to load an adapter on."""

    task_type: str
    above: str = ""
    """What stands in that model before the names of the modules that are adapted."""

    def outer(self, name: str) -> str:
        """The name of a tensor in the files."""
        return f"{PREFIX}{self.above}{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else name

    def inner(self, name: str) -> str:
        """What `outer` made this name of."""
        before = f"{PREFIX}{self.above}"
        return f"{PREFIX}{name.removeprefix(before)}" if name.startswith(before) else name


FEATURES = Use("FEATURE_EXTRACTION")
"""`AutoModel`."""


def save_adapter(
    tensors: Mapping[str, Tensor],
    form: Form,
    folder: Path,
    *,
    base_name: str = "",
    revision: str | None = None,
    use: Use = FEATURES,
) -> None:
    """Write one member's tensors as an adapter of the model that its `use` is of."""
    folder.mkdir(parents=True, exist_ok=True)
    named = form.to_disk(tensors)
    stored = {use.outer(name): _wide(tensor.detach()).cpu().contiguous() for name, tensor in named.items()}
    keeper = {KEPT_BY: "peft"} if isinstance(form, PeftForm) else {}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt", **keeper})
    plain = {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "peft_type": form.peft_type,
        "peft_version": version("peft"),
        "revision": revision,
        "task_type": use.task_type,
        **form.config(tensors),
    }
    (folder / CONFIG).write_text(json.dumps(dict(sorted(plain.items())), indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path, use: Use = FEATURES) -> tuple[dict[str, Tensor], Form]:
    """One member's tensors in float32, and its form.

    Raises:
        ModelError: a file is missing or damaged, or it is a kind of adapter, or a use of one, that is not read here.
    """
    config = _read_config(folder)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = {use.inner(name): _wide(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            keeper = (file.metadata() or {}).get(KEPT_BY)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"adapter: {folder / WEIGHTS} cannot be read ({error}). Save the adapter again.") from error
    if not stored:
        raise ModelError(f"adapter: {folder / WEIGHTS} is empty. Save the adapter again.")
    form = _form(folder, config["peft_type"], of_library=keeper == "peft")
    try:
        return form.from_disk(config, stored)
    except ValueError as error:
        raise ModelError(f"adapter: {folder} {error}") from error


def _form(folder: Path, peft_type: str, *, of_library: bool) -> type[Form]:
    if peft_type in FORMS and not of_library:
        return FORMS[peft_type]
    try:
        return form_of(peft_type)
    except ConfigError as error:
        raise ModelError(f"adapter: {folder} is of PEFT type {peft_type}, which is not read here. {error}") from error


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        plain: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter: {folder / CONFIG} cannot be read ({error}). Save the adapter again.") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("peft_type"), str):
        raise ModelError(f"adapter: {folder / CONFIG} has no `peft_type`; it is not a PEFT adapter.")
    return plain
