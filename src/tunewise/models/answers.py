"""What scores and what writes the answers of a base, by its family."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from tunewise.models import fill, generate, score, seq2seq_score, seq2seq_write
from tunewise.models.asked import Asked
from tunewise.models.generate import Writer
from tunewise.models.going import Going
from tunewise.models.prefix_tree import Request
from tunewise.models.together import Together, Turn


class Scorer(Protocol):
    """Scores given answers."""

    note: str | None
    """What whoever runs it should know."""

    @property
    def base(self) -> Asked:
        """Whose answers they are."""

    @property
    def body(self) -> nn.Module:
        """The modules that compute them."""

    def score(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Natural-log probability of each token of each request's continuation, float64.

        What is returned does not depend, but for rounding, on what else is scored in the same call.
        """

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens that are computed to score these: what they share is counted once, where it is computed once."""


SCORERS: dict[str, Callable[[Any], Scorer]] = {
    "causal": score.Scorer,
    "masked": fill.Scorer,
    "seq2seq": seq2seq_score.Scorer,
}
WRITERS: dict[str, Callable[[Any], Writer]] = {
    "causal": generate.causal_writer,
    "seq2seq": seq2seq_write.seq2seq_writer,
}

_lock = threading.Lock()


def scorer_of(base: Asked) -> Scorer:
    """The one scorer of a base, so that what it finds out about the base is found once."""
    with _lock:
        found: Scorer | None = vars(base).get("_scorer")
        # a copy of a base brings the scorer of the original along
        if found is None or found.base is not base or found.body is not base.body:
            found = base._scorer = SCORERS[base.info.family](base)  # type: ignore[attr-defined]
        return found


def writer_of(base: Asked) -> Writer:
    """What writes with a base that `writes`."""
    return WRITERS[base.info.family](base)


def writer_of_members(base: Asked, members: int, turn: Turn) -> Writer:
    """What writes with members that are stacked in a base that `writes`, all of them at once."""
    one = writer_of(base)

    def begin(prompts: Sequence[np.ndarray]) -> Going:
        return Together(one.begin, prompts, members=members, turn=turn)

    return Writer(one.base, begin, members=members)
