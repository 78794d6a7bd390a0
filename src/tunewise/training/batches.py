"""Which rows make an optimiser step, and how a step is cut into micro-batches: a function of (seed, epoch) alone.

Axes: E rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.models.encoder import Tokens
from tunewise.seeding import generator

WINDOW_STEPS = 32
"""Rows are sorted by length among this many steps: hardly any padding, still a fresh mix in every epoch."""


@dataclass(frozen=True)
class Sizes:
    """What each row takes: its sequences, and the tokens of the longest and of all of them."""

    sequences_E: np.ndarray
    longest_E: np.ndarray
    tokens_E: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.longest_E)

    @classmethod
    def of(cls, tokens: Tokens) -> "Sizes":
        longest_E = np.zeros(tokens.rows, dtype=np.int64)
        np.maximum.at(longest_E, tokens.row_S, tokens.lengths_S)
        return cls(np.bincount(tokens.row_S, minlength=tokens.rows), longest_E, tokens.lengths_R)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def epoch_order(sizes: Sizes, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of every optimiser step of an epoch: each row once, rows of like length together, steps shuffled."""
    rng = generator(seed, "order", epoch)
    order_E = rng.permutation(len(sizes.longest_E))
    window = batch_size * WINDOW_STEPS
    steps: list[np.ndarray] = []
    for start in range(0, len(order_E), window):
        rows = order_E[start : start + window]
        rows = rows[np.argsort(sizes.longest_E[rows], kind="stable")]
        steps += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def micro_batches(sizes: Sizes, rows: Sequence[int] | np.ndarray, budget: int) -> Iterator[list[int]]:
    """Cut rows, in their order, into runs of at most `budget` padded tokens (a row alone may be more)."""
    run: list[int] = []
    longest = sequences = 0
    for row in map(int, rows):
        longer = max(longest, int(sizes.longest_E[row]))
        more = sequences + int(sizes.sequences_E[row])
        if run and longer * more > budget:
            yield run
            run, longer, more = [], int(sizes.longest_E[row]), int(sizes.sequences_E[row])
        run.append(row)
        longest, sequences = longer, more
    if run:
        yield run


def by_length(sizes: Sizes) -> np.ndarray:
    """All rows, longest first, so that a batch too large for memory shows at once."""
    return np.argsort(-sizes.longest_E, kind="stable")
