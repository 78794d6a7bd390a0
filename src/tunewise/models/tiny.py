"""A random base of a few thousand weights in a folder, to try everything offline in seconds."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunewise.errors import ConfigError, did_you_mean
from tunewise.models.describe import empty_model
from tunewise.models.load import quiet_transformers

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert")
VOCABULARY = 512
MAX_TOKENS = 64
TEXTS = (
    "the card was stolen and my payment is still pending",
    "how do I reset the password of my account",
    "a film of great charm, well acted and never dull",
    "this is the worst product I have ever bought",
    "please cancel my order and refund the money",
    "the application crashes when I open the report",
)
_WORDPIECE = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
BYTE_LEVEL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}


def tiny_encoder(
    folder: str | Path,
    *,
    architecture: str = "bert",
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    texts: Iterable[str] = TEXTS,
) -> Path:
    """The folder, now holding a random base of this architecture and a tokenizer made of the words of `texts`.

    Same arguments, same bytes of weights. It reads 64 tokens and knows nothing.

    Raises:
        ConfigError: no such architecture.
    """
    return _written(folder, empty_model, architecture, seed=seed, hidden=hidden, layers=layers, texts=texts)


def tiny_masked(
    folder: str | Path,
    *,
    architecture: str = "bert",
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    texts: Iterable[str] = TEXTS,
) -> Path:
    """As `tiny_encoder`, with a head that says which word a mask stands for: just as random.

    Raises:
        ConfigError: no such architecture.
    """
    from transformers import AutoModelForMaskedLM

    build: Any = AutoModelForMaskedLM.from_config
    return _written(folder, build, architecture, seed=seed, hidden=hidden, layers=layers, texts=texts)


def _written(
    folder: str | Path,
    build: Callable[[Any], Any],
    architecture: str,
    *,
    seed: int,
    hidden: int,
    layers: int,
    texts: Iterable[str],
) -> Path:
    """The folder, with what `build` makes of the architecture's configuration."""
    check_known(architecture, ARCHITECTURES, "tiny_encoder")
    settings = _settings(architecture, hidden, layers)
    if architecture == "roberta":
        tokenizer, config = byte_level_tokenizer(texts), byte_level_config(architecture, settings)
    else:
        tokenizer = _wordpiece(texts, architecture)
        config = _config(architecture, (_WORDPIECE[name] for name in ("[PAD]", "[CLS]", "[SEP]")), settings)
    return random_base(folder, tokenizer, lambda: spread(build(config)), seed=seed)


def check_known(architecture: str, known: Sequence[str], name: str) -> None:
    """Raises ConfigError where the architecture is not among those that `name` makes."""
    if architecture not in known:
        raise ConfigError(f"{name}: there is no '{architecture}'.{did_you_mean(architecture, known)}")


def random_base(folder: str | Path, tokenizer: Any, build: Callable[[], Any], *, seed: int) -> Path:
    """The folder, now holding what `build` makes from this seed, and the tokenizer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        build().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def byte_level_config(architecture: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of a base that is read by a byte-level tokenizer."""
    return _config(architecture, (BYTE_LEVEL[name] for name in ("<pad>", "<s>", "</s>")), settings)


def _config(architecture: str, specials: Iterable[int], settings: Mapping[str, Any]) -> Any:
    """`specials`: ids of padding, start and end."""
    from transformers import AutoConfig

    pad, start, end = specials
    return AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY, pad_token_id=pad, bos_token_id=start, eos_token_id=end, **settings
    )


def _settings(architecture: str, hidden: int, layers: int) -> dict[str, Any]:
    if architecture == "distilbert":
        sizes = {"dim": hidden, "n_layers": layers, "n_heads": 2, "hidden_dim": 2 * hidden}
        return {**sizes, "max_position_embeddings": MAX_TOKENS}
    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": MAX_TOKENS,
    }
    if architecture == "roberta":
        # positions are counted from padding_idx + 1
        settings |= {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1}
    if architecture == "electra":
        settings |= {"embedding_size": hidden // 2}
    if architecture == "deberta-v2":
        settings |= {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]}
        settings |= {"type_vocab_size": 0}
    if architecture == "modernbert":
        settings |= {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2}
    return settings


def spread(model: Any) -> Any:
    """The model with weights ten times as wide as the usual start: else every text gets nearly the same vector."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(10.0)
    return model


def _pieces(texts: Iterable[str]) -> dict[str, int]:
    """Special tokens, printable ASCII at the start and inside of words, and whole words, the most frequent first.

    Made by rule: a trained vocabulary breaks its ties differently in every process.
    """
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*_WORDPIECE, *letters, *(f"##{letter}" for letter in letters), *_words(texts)]
    return {piece: i for i, piece in enumerate(list(dict.fromkeys(pieces))[:VOCABULARY])}


def _byte_merges(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens, all bytes, and the beginnings of the most frequent words, each merged letter by letter."""
    from tokenizers import pre_tokenizers

    pieces = dict.fromkeys([*BYTE_LEVEL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges: list[tuple[str, str]] = []
    for word in (f"Ġ{word}" for word in _words(texts) if word.isascii()):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces and len(pieces) < VOCABULARY:
                pieces[word[:end]] = None
                merges.append((word[: end - 1], word[end - 1]))
    return {piece: i for i, piece in enumerate(pieces)}, merges


def _words(texts: Iterable[str]) -> list[str]:
    """Lower-case words, the most frequent first, ties in alphabetical order."""
    counts = Counter(re.findall(r"[a-z0-9]+", " ".join(texts).lower()))
    return sorted(counts, key=lambda word: (-counts[word], word))


def _wordpiece(texts: Iterable[str], architecture: str) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece(_pieces(texts), unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _WORDPIECE["[CLS]"]), ("[SEP]", _WORDPIECE["[SEP]"])],
    )
    names = ["input_ids", "attention_mask"]
    build: Any = PreTrainedTokenizerFast
    return build(
        tokenizer_object=raw,
        model_max_length=MAX_TOKENS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names if architecture in ("distilbert", "modernbert") else ["token_type_ids", *names],
    )


def byte_level_tokenizer(
    texts: Iterable[str],
    *,
    single: str = "<s> $A </s>",
    pair: str = "<s> $A </s> </s> $B </s>",
    max_tokens: int = MAX_TOKENS,
) -> Any:
    """A tokenizer that can write every text, with these special tokens around one text and around two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _byte_merges(texts)
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[("<s>", BYTE_LEVEL["<s>"]), ("</s>", BYTE_LEVEL["</s>"])],
    )
    build: Any = PreTrainedTokenizerFast
    return build(
        tokenizer_object=raw,
        model_max_length=max_tokens,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
