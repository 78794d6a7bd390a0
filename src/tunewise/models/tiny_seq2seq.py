"""A random encoder-decoder of a few thousand weights, in a folder, to try everything offline in seconds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewise.models.tiny import (
    BYTE_LEVEL,
    TEXTS,
    byte_level_config,
    byte_level_tokenizer,
    check_known,
    random_base,
    spread,
)

ARCHITECTURES = ("t5", "bart")
MAX_TOKENS = 256


def tiny_seq2seq(
    folder: str | Path,
    *,
    architecture: str = "t5",
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    texts: Iterable[str] = TEXTS,
) -> Path:
    """The folder, now holding a random encoder-decoder of this architecture and a byte-level tokenizer.

    Same arguments, same bytes of weights. It reads and writes 256 tokens and knows nothing.

    Raises:
        ConfigError: no such architecture.
    """
    check_known(architecture, ARCHITECTURES, "tiny_seq2seq")
    around = {"single": "$A </s>", "pair": "$A </s> $B </s>"} if architecture == "t5" else {}
    tokenizer = byte_level_tokenizer(texts, max_tokens=MAX_TOKENS, **around)
    config = byte_level_config(architecture, _settings(architecture, hidden, layers))
    return random_base(folder, tokenizer, lambda: _built(config), seed=seed)


def _built(config: Any) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    build: Any = AutoModelForSeq2SeqLM.from_config
    model = build(config)
    if config.model_type == "t5":  # it starts wide enough
        return model
    model.generation_config.forced_bos_token_id = BYTE_LEVEL["<s>"]
    return spread(model)


def _settings(architecture: str, hidden: int, layers: int) -> dict[str, Any]:
    if architecture == "t5":
        sizes = {"d_model": hidden, "d_kv": hidden // 4, "d_ff": 2 * hidden, "num_layers": layers, "num_heads": 4}
        # the start as the published T5 has it, and feed-forward parts as those of its second version
        start = {"decoder_start_token_id": BYTE_LEVEL["<pad>"], "feed_forward_proj": "gated-gelu"}
        return {**sizes, **start, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 32}
    return {
        "d_model": hidden,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * hidden,
        "decoder_ffn_dim": 2 * hidden,
        "max_position_embeddings": MAX_TOKENS,
        "decoder_start_token_id": BYTE_LEVEL["</s>"],
        "forced_eos_token_id": None,
    }
