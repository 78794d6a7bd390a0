"""A base that can learn to write: what it reads of a prompt and its answer, and where each token is foreseen.

Axes: N tokens that are learnt, H hidden, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor, nn

from tunewise.models.asked import Asked
from tunewise.models.encoder import Batch
from tunewise.models.prefix_tree import Request


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch to learn answers from; each of N tokens is foreseen from one last hidden state."""

    batch: Batch
    row_N: np.ndarray
    """Row of the hidden states."""
    place_N: np.ndarray
    """Position in it: that of the token before."""
    token_N: np.ndarray


class WritingBase(Asked):
    """What training asks of a base, whichever way it is built; `forward` gives the last hidden states of a batch."""

    whole: nn.Module
    """The model with what reads the vocabulary, as the PEFT library would load it."""
    task_type: str
    """The PEFT library's name for what `whole` is for."""

    def for_texts(self) -> Self:
        """The base with, for its `model`, all that is trained where texts are learnt."""
        return self

    @property
    @abstractmethod
    def above(self) -> str:
        """What stands before the names of `model`'s weights in `whole`."""

    @abstractmethod
    def over(self, whole: nn.Module) -> Self:
        """The base over other modules, a tree like `whole`; it reads the vocabulary by theirs."""

    @abstractmethod
    def lesson(self, requests: Sequence[Request]) -> Lesson:
        """What is read to learn these answers, and where their tokens are foreseen."""

    @abstractmethod
    def lengths(self, requests: Sequence[Request]) -> np.ndarray:
        """Tokens that are read to learn each answer."""

    @property
    @abstractmethod
    def read_weights(self) -> list[nn.Parameter]:
        """Weights by which `read` goes from hidden states to the vocabulary."""

    @abstractmethod
    def read(self, hidden_NH: Tensor) -> Tensor:
        """Logits [N, V] of the next token after each of these last hidden states, as `whole` computes them."""
