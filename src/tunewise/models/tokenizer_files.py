"""The files that say how a base reads texts, and a digest of what stands in them."""

import hashlib
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tunewise.errors import ModelError

FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("chat_template.*", "sentence_bert_config.json"),
    *("*vocab*.json", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json"),
    *("*.txt", "*.model", "*.model.v*", "*.spm", "*.bpe", "*.codes", "*.tiktoken", "*.tokenizer"),
)
"""Patterns of all names that tokenizers of transformers have; the settings of a sentence encoder may lower-case."""
NOT_READ = ("readme*", "licen[cs]e*", "notice*", "requirements*")
"""Patterns of what lies beside them, in lower case."""
OF_NO_EFFECT = ("padding", "truncation", "name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local")
"""Keys for what is set anew whenever texts are read, and for where files lay."""


def tokenizer_digest(folder: Path) -> str:
    """sha256 of what the base's tokenizer is made of; the same wherever it lies and however its JSON is laid out.

    Raises:
        ModelError: a file cannot be read, or is no JSON where it should be.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and _matches(path.name, FILES) and not _matches(path.name.lower(), NOT_READ):
            content = _content(path)
            digest.update(f"{path.name}\x00{len(content)}\x00".encode())
            digest.update(content)
    return digest.hexdigest()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        if path.suffix != ".json":
            return raw
        found: Any = json.loads(raw)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable ({error}). The base's folder is damaged.") from error
    if isinstance(found, dict):
        found = {key: value for key, value in found.items() if key not in OF_NO_EFFECT}
    return json.dumps(found, sort_keys=True).encode()
