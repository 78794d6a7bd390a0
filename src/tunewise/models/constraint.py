"""What may be written: one of some texts, or what a regular expression or a JSON schema allows."""

import functools
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewise.errors import ConfigError, ModelError
from tunewise.models.asked import Asked
from tunewise.models.going import Allowed

REMEMBERED = 4096
"""Beginnings of answers of which it is remembered what may follow."""
EXTRA = "tunewise[constrained]"


def of_choices(base: Asked, before: str, answers: Sequence[str]) -> Allowed:
    """Only these answers may be written after a prompt that ends with `before`.

    Raises:
        ModelError: an answer has no tokens, or is another's beginning on a base that cannot say where an answer ends.
    """
    tree: dict[Any, Any] = {}
    for answer, ids in zip(answers, written_ids(base, before, answers), strict=True):
        if not ids:
            raise ModelError(f"decoding: the tokenizer of {base.info.name} makes nothing of the choice {answer!r}.")
        branch = tree
        for token in ids:
            branch = branch.setdefault(token, {})
        branch[None] = {}

    def allowed(ids: Sequence[int]) -> Sequence[int]:
        branch = tree
        for token in ids:
            branch = branch[token]
        further = [token for token in branch if token is not None]
        if None in branch and further:
            return [*further, *base.end_ids]
        return further

    if not base.end_ids and _has_beginnings(tree):
        raise ModelError(
            f"decoding: a choice is the beginning of another, and {base.info.name} has no token that ends an answer. "
            "Use choices of which none begins another."
        )
    return allowed


def written_ids(base: Asked, before: str, answers: Sequence[str]) -> list[list[int]]:
    """The tokens of each answer as they are written after a prompt that ends with `before`."""
    alone = base.text_ids([answer.lstrip(" ") if base.info.family == "seq2seq" else answer for answer in answers])
    if base.info.family == "seq2seq":
        return alone
    start, *whole = base.text_ids([before, *(before + answer for answer in answers)])
    # a word may begin otherwise after a text than alone
    return [ids[len(start) :] if ids[: len(start)] == start else own for ids, own in zip(whole, alone, strict=True)]


def _has_beginnings(branch: dict[Any, Any]) -> bool:
    return (None in branch and len(branch) > 1) or any(_has_beginnings(each) for each in branch.values())


def of_regex(base: Asked, prefix: str, regex: str) -> Allowed:
    """Only what matches the whole expression may be written, after the prefix.

    Raises:
        ConfigError: the library for it is not installed, or cannot read the expression.
    """
    grammar = _library().LLMatcher.grammar_from_regex(f"{_prefix(base, prefix)}(?:{regex})")
    return _by_grammar(base, grammar, "regex")


def of_schema(base: Asked, prefix: str, schema: str) -> Allowed:
    """Only JSON that fits the schema (itself JSON) may be written, after the prefix; without blanks of its own choice.

    Raises:
        ConfigError: the library for it is not installed, or cannot read the schema.
    """
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    stated = json.dumps({**json.loads(schema), "x-guidance": options})
    grammar = f"start: before body\nbefore: /{_prefix(base, prefix)}/\nbody: %json {stated}"
    return _by_grammar(base, _library().LLMatcher.grammar_from_lark(grammar), "json_schema")


def _prefix(base: Asked, prefix: str) -> str:
    """An expression for what is written before an answer begins; a base whose answers begin texts may leave it out."""
    plain = re.escape(prefix).replace("/", r"\/")
    return f"({plain})?" if base.info.family == "seq2seq" else plain


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"decoding: `regex` and `json_schema` need the package llguidance. Install it: pip install '{EXTRA}'."
        ) from error
    return llguidance


def _by_grammar(base: Asked, grammar: str, key: str) -> Allowed:
    if not base.end_ids:
        raise ModelError(f"decoding: `{key}` needs a token that ends an answer, and {base.info.name} has none.")
    tokenizer = _tokenizer(base)
    why = _library().LLMatcher.validate_grammar(grammar, tokenizer)
    if why:
        raise ConfigError(f"decoding: `{key}` cannot be read: {' '.join(str(why).split())[:300]}")
    return _Grammar(_library().LLMatcher(tokenizer, grammar, log_level=0)).allowed


def _tokenizer(base: Asked) -> Any:
    """The library's view of the base's tokenizer, made once: it takes a second where the vocabulary is large."""
    found = vars(base).get("_grammar_tokenizer")
    if found is None or found[0] != base.end_ids:
        from llguidance.hf import from_tokenizer

        made = from_tokenizer(base.tokenizer, n_vocab=base.vocabulary, eos_token=list(base.end_ids))
        found = base._grammar_tokenizer = (base.end_ids, made)  # type: ignore[attr-defined]
    return found[1]


class _Grammar:
    """What may follow, by the beginning of an answer: where the same stands in many answers it is found once."""

    def __init__(self, start: Any) -> None:
        self._start = start
        self._states: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._found = functools.lru_cache(maxsize=REMEMBERED)(self._found_anew)

    def allowed(self, ids: Sequence[int]) -> np.ndarray:
        return self._found(tuple(ids))

    def _found_anew(self, ids: tuple[int, ...]) -> np.ndarray:
        state = self._state(ids)
        if state.is_stopped():
            return np.zeros(0, dtype=np.int64)
        bits = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def _state(self, ids: tuple[int, ...]) -> Any:
        if not ids:
            return self._start
        found = self._states.get(ids)
        if found is None:
            before = self._states.get(ids[:-1])
            found = (self._start if before is None else before).deep_copy()
            for token in ids if before is None else ids[-1:]:
                found.consume_token(token)
            self._states[ids] = found
            if len(self._states) > REMEMBERED:
                self._states.popitem(last=False)
        return found
