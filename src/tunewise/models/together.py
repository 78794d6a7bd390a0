"""Answers of several members that are adapted on one base, written in one pass: each member has rows of its own.

Axes: A members that still write, S rows of each in a pass, B rows of the caller, V vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from tunewise.models.going import Going

Turn = Callable[[Sequence[int], int, int], None]
"""Says which members take part in the passes that follow, how many rows each has, and how many positions a row."""


class Together:
    """Rows sorted by member for passes in which every member has as many rows.

    Where one has fewer, a row of it stands there again; what comes of that is dropped.
    """

    def __init__(
        self,
        begin: Callable[[Sequence[np.ndarray]], Going],
        prompts: Sequence[np.ndarray],
        *,
        members: int,
        turn: Turn,
    ) -> None:
        """`prompts`: of one member after another, as many of each."""
        rows = len(prompts) // members
        self._turn = turn
        self._member = [row // rows for row in range(len(prompts))]
        self._row = list(range(len(prompts)))
        """Of the caller, in each row of a pass."""
        self._at = list(self._row)
        """Row of a pass, for each of the caller."""
        self._positions = max(map(len, prompts))
        self._turned()  # what reads the prompts may be called here already
        self._going = begin(prompts)

    def _turned(self) -> None:
        active = sorted(set(self._member))
        self._turn(active, len(self._row) // len(active), self._positions)

    def logits(self) -> Tensor:
        """Of the next token of each of the caller's rows [B, V], float32."""
        self._turned()
        logits_NV = self._going.logits()
        return logits_NV if self._at == self._row else logits_NV[self._at]

    def go_on(self, tokens: Sequence[int]) -> None:
        self._going.go_on([tokens[row] for row in self._row])
        self._positions = 1

    def select(self, rows: Sequence[int]) -> None:
        """Members without a row leave."""
        member = [self._member[row] for row in rows]
        own = {each: [place for place, other in enumerate(member) if other == each] for each in sorted(set(member))}
        most = max(map(len, own.values()))
        row = [place for places in own.values() for place in (places + places[:1] * most)[:most]]
        self._going.select([self._at[rows[place]] for place in row])
        self._member, self._row = member, row
        first = {place: i for i, place in reversed(list(enumerate(row)))}
        self._at = [first[place] for place in range(len(rows))]
