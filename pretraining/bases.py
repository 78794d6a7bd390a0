"""The bases before they have learnt anything: one architecture of transformers for each family, in two sizes."""

import re
from typing import TYPE_CHECKING, Any, Literal

import torch

from pretraining.pack import IDS
from pretraining.tokenizer import BOS, EOS, LENGTH, PAD, VOCABULARY, Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Size = Literal["toy", "small", "large"]
"""small: 4 to 5 million weights, for a CPU; large: about 9 million, for a GPU; toy: for tests."""
LAST_OF_A_LAYER = re.compile(r"\.(o_proj|down_proj|Wo|o|wo)\.weight$")
"""Of attention and of what follows it, as Qwen3, ModernBERT and T5 name them."""
SHAPES: dict[Size, dict[str, int]] = {
    "toy": {"hidden": 32, "layers": 2, "heads": 2, "inner": 64},
    "small": {"hidden": 192, "layers": 6, "heads": 6, "inner": 512},
    "large": {"hidden": 256, "layers": 9, "heads": 8, "inner": 704},
}


def fresh(family: Family, size: Size, *, seed: int, vocabulary: int = VOCABULARY) -> "PreTrainedModel":
    """Qwen3's decoder, ModernBERT's encoder or T5's both, with random weights; one table of tokens reads and writes.

    What a layer adds to its input is zero at first (as in Zhang et al. 2019, "Fixup Initialization", arXiv 1901.09321),
    which is learnt from faster.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    kinds: dict[Family, tuple[str, Any]] = {
        "causal": ("qwen3", AutoModelForCausalLM),
        "masked": ("modernbert", AutoModelForMaskedLM),
        "seq2seq": ("t5", AutoModelForSeq2SeqLM),
    }
    architecture, kind = kinds[family]
    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocabulary,
        pad_token_id=IDS[PAD],
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[EOS],
        tie_word_embeddings=True,
        **_settings(family, SHAPES[size]),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # T5's learnt distances and the fused kernel make gradients on a GPU that are not numbers
        plain = {"attn_implementation": "eager"} if family == "seq2seq" else {}
        model: PreTrainedModel = kind.from_config(config, **plain)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if LAST_OF_A_LAYER.search(name):
                own.zero_()
    return model


def _settings(family: Family, shape: dict[str, int]) -> dict[str, Any]:
    hidden, layers, heads, inner = (shape[name] for name in ("hidden", "layers", "heads", "inner"))
    if family == "seq2seq":
        return {
            "d_model": hidden,
            "d_kv": hidden // heads,
            "d_ff": inner,
            "num_heads": heads,
            "num_layers": layers // 2,
            "num_decoder_layers": layers // 2,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": IDS[PAD],
            "dropout_rate": 0.0,  # every text is read a few times only
            "n_positions": LENGTH,
        }
    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": LENGTH,
    }
    if family == "causal":
        return {**settings, "num_key_value_heads": heads, "head_dim": hidden // heads}
    ends = {"cls_token_id": IDS[BOS], "sep_token_id": IDS[EOS]}
    return {**settings, **ends, "global_attn_every_n_layers": 3, "local_attention": 128, "sparse_prediction": True}
