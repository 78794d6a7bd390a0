"""What answers are written by: something that goes on for the next tokens, and what may be written."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

Allowed = Callable[[Sequence[int]], Sequence[int] | np.ndarray | None]
"""Of the tokens an answer has so far, those that may follow; none: it is complete; None: any."""


class Going(Protocol):
    """Answers that are being written, one in each row."""

    def logits(self) -> Tensor:
        """Of the next token of each row [B, V], float32."""

    def go_on(self, tokens: Sequence[int]) -> None:
        """Take these for the next token of each row."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; a row may stand there more than once."""
