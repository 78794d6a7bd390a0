"""A base that gives probabilities of words after a prompt, whichever way it is built."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import Tensor, nn

from tunewise.models.encoder import Encoder, valid
from tunewise.models.prefix_tree import Request


class Asked(Encoder, ABC):
    """An encoder that answers, too; what scores and writes its answers, `models/answers.py` says."""

    writes: ClassVar[bool] = True
    """Whether it writes texts, token by token, and does not only score given ones."""
    label_end: str = "\n"
    """What is scored after a label's words where they begin another's."""
    vocabulary: int
    start_ids: tuple[int, ...]
    """What is read before every prompt."""
    end_ids: tuple[int, ...]
    """What ends an answer that is written."""
    origin: "Asked"
    """The base as it was loaded, also of what was made of it."""

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The modules by which answers are computed."""

    @abstractmethod
    def prompt_ids(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """What is read of each prompt before its answer."""

    @abstractmethod
    def room(self, answer_tokens: int) -> int:
        """Tokens that the text of a prompt may have where its answer has so many; none left: 0 or less."""

    @abstractmethod
    def requests(self, prompt: str, answers: Sequence[str], *, end: bool = False) -> list[Request]:
        """How each answer is scored after the prompt; all of one call from the same token on.

        `end`: what ends an answer is scored too.
        """

    @abstractmethod
    def fits(self, request: Request) -> bool:
        """Whether the base reads as much."""

    @abstractmethod
    def at_answer(self) -> Self:
        """The base with, for vectors of texts that are prompts, what it would read the vocabulary off."""

    @abstractmethod
    def output_rows(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Float32 rows [tokens, H] and biases [tokens] of what reads the vocabulary off such vectors."""

    @abstractmethod
    def read(self, hidden_SH: Tensor) -> Tensor:
        """Logits [S, V] of words after, or in the place of, each of these last hidden states."""

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as it stands: nothing is put before or after it, and nothing is cut."""
        self._backend.no_truncation()
        self._backend.no_padding()
        return [e.ids for e in self._backend.encode_batch([valid(text) for text in texts], add_special_tokens=False)]

    def reads(self, text: str) -> bool:
        """Whether its tokenizer has tokens for all of the text."""
        return self.tokenizer.unk_token_id not in self.text_ids([text])[0]

    def cut(self, text: str, tokens: int, keep: Literal["keep_start", "keep_end"]) -> str:
        """The text's first or last characters that make at most so many tokens."""
        self._backend.no_truncation()
        spans = self._backend.encode(valid(text), add_special_tokens=False).offsets
        if tokens >= len(spans):
            return text
        return text[: spans[tokens - 1][1]] if keep == "keep_start" else text[spans[len(spans) - tokens][0] :]


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two sequences have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def added_before(tokenizer: Any) -> tuple[int, ...]:
    """Ids that the tokenizer puts before every text by itself."""
    with_ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    without = tokenizer("a", add_special_tokens=False)["input_ids"]
    ends = len(with_ids) - len(without)
    for before in range(ends + 1):
        if with_ids[before : before + len(without)] == without:
            return tuple(with_ids[:before])
    return ()


def added_around(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer puts before and after every single text by itself."""
    backend.no_truncation()
    backend.no_padding()
    found = backend.encode("a", add_special_tokens=True)
    text = [i for i, special in enumerate(found.special_tokens_mask) if not special]
    return tuple(found.ids[: text[0]]), tuple(found.ids[text[-1] + 1 :])


def ends_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: the model's own, and the tokenizer's."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = stated if isinstance(stated, (list, tuple)) else [stated]
    return tuple(dict.fromkeys(int(i) for i in (*several, tokenizer.eos_token_id) if i is not None))
