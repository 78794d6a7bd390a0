"""One LoRA member on disk, exactly as the PEFT library writes and reads it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

_MUST_BE_EMPTY = {
    "use_dora": "weight-decomposed updates (DoRA)",
    "modules_to_save": "fully trained modules",
    "rank_pattern": "ranks that differ between layers",
    "alpha_pattern": "alphas that differ between layers",
    "fan_in_fan_out": "transposed layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters outside linear layers",
    "layer_replication": "replicated layers",
    "lora_bias": "biases in the update",
    "alora_invocation_tokens": "activation by tokens",
}


@dataclass(frozen=True, kw_only=True)
class PeftLora:
    """The part of PEFT's LoRA config that changes what a member answers."""

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    base_name: str = ""
    revision: str | None = None

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def save_peft(tensors: Mapping[str, Tensor], config: PeftLora, folder: Path) -> None:
    """Write `<path>.A` [I, R] and `<path>.B` [R, O] of one member as a PEFT adapter of the base `AutoModel`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted({name.removesuffix(".A") for name in tensors if name.endswith(".A")})
    named = {}
    for path in paths:
        named[f"{PREFIX}{path}.lora_A.weight"] = tensors[f"{path}.A"].detach().float().cpu().t().contiguous()
        named[f"{PREFIX}{path}.lora_B.weight"] = tensors[f"{path}.B"].detach().float().cpu().t().contiguous()
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    plain = {
        "base_model_name_or_path": config.base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": version("peft"),
        "r": config.rank,
        "revision": config.revision,
        "target_modules": paths,
        "task_type": "FEATURE_EXTRACTION",
        "use_dora": False,
        "use_rslora": config.rslora,
    }
    (folder / CONFIG).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def load_peft(folder: Path) -> tuple[dict[str, Tensor], PeftLora]:
    """Tensors `<path>.A` [I, R] and `<path>.B` [R, O] in fp32, and the config, of a PEFT LoRA adapter.

    Raises:
        ModelError: a file is missing or damaged, it is another kind of adapter, or A and B do not belong together.
    """
    config = _read_config(folder)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"adapter: {folder / WEIGHTS} cannot be read ({error}). Save the adapter again.") from error
    tensors: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        path, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        if not key.startswith(PREFIX) or part not in ("A.weight", "B.weight") or tensor.dim() != 2:
            raise ModelError(
                f"adapter: {folder / WEIGHTS} holds '{key}', which is no LoRA weight of a linear layer. "
                "Only plain LoRA adapters are read."
            )
        tensors[f"{path}.{part[0]}"] = tensor.float().t().contiguous()
    for name in tensors:
        path = name[:-2]
        a, b = tensors.get(f"{path}.A"), tensors.get(f"{path}.B")
        if a is None or b is None or a.shape[1] != config.rank or b.shape[0] != config.rank:
            raise ModelError(
                f"adapter: {folder / WEIGHTS}: layer '{path}' should have A and B of rank {config.rank}, "
                f"found {_shape(a)} and {_shape(b)}. Save the adapter again."
            )
    if not tensors:
        raise ModelError(f"adapter: {folder / WEIGHTS} is empty. Save the adapter again.")
    return tensors, config


def _read_config(folder: Path) -> PeftLora:
    try:
        plain: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter: {folder / CONFIG} cannot be read ({error}). Save the adapter again.") from error
    if not isinstance(plain, dict) or "peft_type" not in plain:
        raise ModelError(f"adapter: {folder / CONFIG} has no `peft_type`; it is not a PEFT adapter.")
    if plain["peft_type"] != "LORA":
        raise ModelError(f"adapter: {folder} is of PEFT type {plain['peft_type']}; only LORA is read here.")
    for key, meaning in _MUST_BE_EMPTY.items():
        if plain.get(key):
            raise ModelError(f"adapter: {folder} uses `{key}` ({meaning}), which is not read here. Train without it.")
    if plain.get("bias", "none") != "none":
        raise ModelError(f"adapter: {folder} trains biases (`bias`: {plain['bias']!r}), which are not read here.")
    rank, alpha = plain.get("r"), plain.get("lora_alpha", 8)
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or not np.isfinite(alpha):
        raise ModelError(
            f"adapter: {folder / CONFIG}: `r` {rank!r} and `lora_alpha` {alpha!r} must be numbers above 0."
        )
    return PeftLora(
        rank=rank,
        alpha=float(alpha),
        rslora=bool(plain.get("use_rslora", False)),
        dropout=float(plain.get("lora_dropout", 0.0)),
        base_name=str(plain.get("base_model_name_or_path") or ""),
        revision=plain.get("revision"),
    )


def _shape(tensor: Tensor | None) -> object:
    return None if tensor is None else tuple(tensor.shape)
