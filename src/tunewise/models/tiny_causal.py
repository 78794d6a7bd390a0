"""A random base of a few thousand weights that writes, in a folder, to try everything offline in seconds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewise.models.tiny import TEXTS, byte_level_config, byte_level_tokenizer, check_known, random_base, spread

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "phi", "bloom")
MAX_TOKENS = 256


def tiny_causal(
    folder: str | Path,
    *,
    architecture: str = "llama",
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    texts: Iterable[str] = TEXTS,
) -> Path:
    """The folder, now holding a random decoder of this architecture and a byte-level tokenizer.

    Same arguments, same bytes of weights. It reads 256 tokens and knows nothing.

    Raises:
        ConfigError: no such architecture.
    """
    check_known(architecture, ARCHITECTURES, "tiny_causal")
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    tokenizer = byte_level_tokenizer(texts, single="<s> $A", pair="<s> $A $B", max_tokens=MAX_TOKENS)
    config = byte_level_config(architecture, _settings(architecture, hidden, layers))
    return random_base(folder, tokenizer, lambda: spread(build(config)), seed=seed)


def _settings(architecture: str, hidden: int, layers: int) -> dict[str, Any]:
    if architecture == "gpt2":
        return {"n_embd": hidden, "n_layer": layers, "n_head": 2, "n_positions": MAX_TOKENS}
    if architecture == "bloom":
        return {"hidden_size": hidden, "n_layer": layers, "n_head": 2}
    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": MAX_TOKENS,
    }
    if architecture in ("llama", "qwen2", "qwen3", "gemma"):
        # four query heads share two of keys and values
        settings |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
    if architecture in ("qwen3", "gemma"):
        settings |= {"head_dim": 8}
    return settings
