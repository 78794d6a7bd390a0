"""What the files of a base say about it: family, limits, pooling, weights."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Literal, cast

import torch

from tunewise.errors import ModelError
from tunewise.models.encoder import BaseInfo, Pooling
from tunewise.models.tokenizer_files import tokenizer_digest

POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
POSITIONS_FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet", "roberta-prelayernorm", "xlm-roberta-xl"}
"""Architectures that count positions from padding_idx + 1, so that many of them are never used."""
ENCODER_DECODERS = {
    *("t5", "mt5", "umt5"),
    *("bart", "mbart", "plbart", "marian", "pegasus", "blenderbot", "blenderbot-small", "m2m_100"),
}
"""Architectures of an encoder and a decoder that are read here."""
PICKLES = ("*.bin", "*.pt", "*.pth")


def describe_folder(
    folder: Path,
    *,
    name: str,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> BaseInfo:
    """What the base in this folder is.

    Raises:
        ModelError: not a base of a known family, or its weights cannot be loaded safely.
    """
    config = read_config(folder, name=name, trust_remote_code=trust_remote_code)
    family = _family(config, folder, name=name)
    files = weight_files(folder, name=name, allow_pickle=allow_pickle)
    pooling, normalize = _sentence_pooling(folder, name=name)
    return BaseInfo(
        name=name,
        path=str(folder),
        family=family,
        revision=revision,
        sha256=_digest(files),
        tokenizer_sha256=tokenizer_digest(folder),
        architecture=str(config.model_type),
        hidden_size=int(config.hidden_size),
        max_tokens=_max_tokens(config, folder),
        parameters=_count_parameters(config, trust_remote_code),
        pooling=pooling,
        normalize=normalize,
        english_only=_english_only(folder),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}). The base's folder is damaged.") from error
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def read_config(folder: Path, *, name: str, trust_remote_code: bool) -> Any:
    """The configuration of the architecture.

    Raises:
        ModelError: there is none, it is unknown, or it wants to run code of its own.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    raw = read_json(folder / "config.json")
    if not raw:
        raise ModelError(f"{name}: no config.json in {folder}. A base is a folder as `save_pretrained` writes it.")
    if raw.get("auto_map") and not trust_remote_code:
        raise ModelError(
            f"{name}: it brings Python code of its own (`auto_map` in config.json), which is not run unless you "
            "say so with --trust-remote-code (`trust_remote_code: true` in the task). Read the code first."
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError, StrictDataclassError) as error:
        kind = raw.get("model_type", "none")
        raise ModelError(
            f"{name}: config.json has the model type '{kind}', which the installed transformers cannot read "
            f"({' '.join(str(error).split())[:200]})."
        ) from error


def weight_files(folder: Path, *, name: str, allow_pickle: bool) -> list[Path]:
    """The files that hold the weights, in order of name; safetensors where there are any.

    Raises:
        ModelError: none, or only pickles while they are not allowed.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    files = _sharded(folder, "model.safetensors.index.json", name=name)
    if files:
        return files
    pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern) if "training_args" not in path.name)
    if pickles and not allow_pickle:
        raise ModelError(
            f"{name}: its weights are a pickle ({pickles[0].name}), which can run code when it is opened. "
            "Use a safetensors version of the base, or allow it with --allow-pickle."
        )
    if pickles:
        whole = folder / "pytorch_model.bin"
        return [whole] if whole.is_file() else _sharded(folder, "pytorch_model.bin.index.json", name=name) or pickles
    raise ModelError(f"{name}: no weights in {folder}. Expected model.safetensors.")


def _sharded(folder: Path, index: str, *, name: str) -> list[Path]:
    shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(f"{name}: {index} names {missing[0]}, which is missing. The download is incomplete.")
    return [folder / shard for shard in shards]


def _digest(files: list[Path]) -> str:
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _family(config: Any, folder: Path, *, name: str) -> Literal["encoder", "masked", "causal", "seq2seq"]:
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    says_causal = any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in config.architectures or ())
    if kind in ENCODER_DECODERS:
        return "seq2seq"
    if getattr(config, "is_encoder_decoder", False):
        recognised = f"seq2seq ('{kind}')"
    elif getattr(config, "is_decoder", False) or says_causal:
        return "causal"
    elif kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder" if (folder / "modules.json").is_file() else "masked"
    elif kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    else:
        recognised = f"unknown ('{kind}')"
    raise ModelError(
        f"{name}: kind of base recognised: {recognised}; this version climbs causal, encoder, masked and seq2seq bases "
        "(Llama, Qwen, GPT-2, GPT-NeoX, Gemma, Phi; BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, ModernBERT and "
        "sentence encoders made of them; T5, BART, Marian)."
    )


def _sentence_pooling(folder: Path, *, name: str) -> tuple[Pooling, bool]:
    """How a sentence encoder makes one vector of many; the mean where nothing is said."""
    path = folder / "modules.json"
    if not path.is_file():
        return "mean", False
    modules = json.loads(path.read_text(encoding="utf-8"))
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    foreign = [kind for kind in kinds if kind not in KNOWN_MODULES]
    if foreign:
        raise ModelError(
            f"{name}: this sentence encoder has a module '{foreign[0]}', which this version does not apply, so its "
            "vectors would not be its own. Use another base, or the transformer in its folder alone."
        )
    pooling: Pooling = "mean"
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Pooling":
            pooling = _pooling_mode(read_json(folder / module["path"] / "config.json"), name=name)
    return pooling, "Normalize" in kinds


def _pooling_mode(settings: dict[str, Any], *, name: str) -> Pooling:
    on = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    named = str(settings.get("pooling_mode", "")).removeprefix("pooling_mode_")
    modes: list[Pooling] = [POOLINGS[key] for key in on if key in POOLINGS]
    modes += [mode for mode in POOLINGS.values() if not on and named in (mode, f"{mode}token")]
    if len(modes) != 1 or len(on) > 1:
        raise ModelError(
            f"{name}: its pooling is {' + '.join(on) or named or 'not stated'}; "
            "this version knows mean, cls, last and max."
        )
    return modes[0]


def _max_tokens(config: Any, folder: Path) -> int:
    """The smallest of the limits that the tokenizer, the position table and the sentence encoder state."""
    limits = []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        reserved = (config.pad_token_id or 0) + 1 if config.model_type in POSITIONS_FROM_PADDING else 0
        limits.append(positions - reserved)
    for file, key in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        stated = read_json(folder / file).get(key)
        if isinstance(stated, (int, float)) and 0 < stated < 1_000_000:
            limits.append(int(stated))
    return min(limits, default=512)


def _count_parameters(config: Any, trust_remote_code: bool) -> int:
    """Weights of the base without its pooler, counted on an empty copy."""
    with torch.device("meta"):
        model = empty_model(config, trust_remote_code=trust_remote_code)
    return sum(weight.numel() for name, weight in model.named_parameters() if "pooler" not in name)


def without_pooler(config: Any) -> dict[str, Any]:
    """The argument that leaves out the untrained layer on the first token, where the architecture has one."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    architecture: Any = MODEL_MAPPING.get(type(config), object)
    takes = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if takes else {}


def empty_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """A model of this configuration with fresh weights, on the device that is current."""
    from transformers import AutoModel

    build: Any = AutoModel.from_config
    return build(config, trust_remote_code=trust_remote_code, **without_pooler(config))


def _english_only(folder: Path) -> bool | None:
    """True or False where the model card names its languages; None where it does not."""
    import yaml

    card = folder / "README.md"
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    stated = front.get("language") if isinstance(front, dict) else None
    languages = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return {str(language).lower() for language in languages} <= {"en", "eng", "english"} if languages else None
