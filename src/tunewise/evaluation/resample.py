"""Draw sets of examples, or of whole clusters, again and again, as weights on the distinct rows of statistics.

Examples with the same statistics are interchangeable, so a bootstrap over examples is one multinomial draw over the
distinct rows: the same distribution as picking row by row, at a cost that does not grow with the examples.

Axes: E examples, K statistics, C distinct rows, G units drawn (examples or clusters), D draws, J jackknife sets,
M quantities computed together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Functional = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of rows [C, K] and weights [D, C] the value of each draw, [D] or [D, M]."""

CELLS_AT_ONCE = 4_000_000
"""Weights held in memory together (32 MB)."""
JACKKNIFE_SETS = 500
"""Beyond this many different sets the jackknife leaves out random groups instead of single units."""


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement, and how often each distinct row lies in it."""

    row_CK: np.ndarray
    count_C: np.ndarray
    n: int
    """Units drawn each time: examples, or clusters."""
    rows_GC: Any = None
    """Sparse counts by cluster; None where examples are drawn."""

    @property
    def noun(self) -> str:
        return "examples" if self.rows_GC is None else "clusters"

    def value(self, functional: Functional) -> np.ndarray:
        """Of the set as it is, [1] or [1, M]."""
        return functional(self.row_CK, self.count_C[None])

    def draws(self, functional: Functional, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Of `draws` resamples, [D] or [D, M]."""
        at_once = max(1, CELLS_AT_ONCE // max(self.n if self._picks else len(self.count_C), 1))
        parts = [min(at_once, draws - start) for start in range(0, draws, at_once)]
        return np.concatenate([functional(self.row_CK, self._weights(rng, part)) for part in parts])

    @property
    def _picks(self) -> bool:
        """Whether units are picked one by one, which is faster where few of them are alike."""
        return self.rows_GC is not None or 2 * len(self.count_C) > self.n

    def _weights(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        if not self._picks:
            return rng.multinomial(self.n, self.count_C / self.n, size=draws).astype(np.float64)
        picks_DG = rng.integers(0, self.n, size=(draws, self.n)) + self.n * np.arange(draws)[:, None]
        times_DG = np.bincount(picks_DG.ravel(), minlength=draws * self.n).reshape(draws, self.n).astype(np.float64)
        if self.rows_GC is not None:
            weight_DC: np.ndarray = (self.rows_GC.T @ times_DG.T).T
            return weight_DC
        starts_C = np.concatenate([[0], np.cumsum(self.count_C)[:-1]]).astype(np.int64)
        return np.add.reduceat(times_DG, starts_C, axis=1)

    def jackknife(self, functional: Functional, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Values with one unit left out, [J] or [J, M], and for how many units each stands, [J].

        Units with equal rows share one value. Where more than `JACKKNIFE_SETS` differ, random groups of equal size are
        left out instead: the acceleration has the same expectation (skewness and 1/sqrt(J) shrink and grow alike).
        """
        parts, times_J = zip(*self._left_out(rng), strict=True)
        values = [functional(self.row_CK, self.count_C - left_JC) for left_JC in parts]
        return np.concatenate(values), np.concatenate(times_J)

    def _left_out(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self.rows_GC is None and len(self.count_C) <= JACKKNIFE_SETS:
            yield np.eye(len(self.count_C)), self.count_C
            return
        size = len(self.count_C)
        for group in np.array_split(rng.permutation(self.n), min(self.n, JACKKNIFE_SETS)):
            if self.rows_GC is not None:
                left_C = np.asarray(self.rows_GC[group].sum(axis=0)).reshape(size)
            else:
                row = np.searchsorted(np.cumsum(self.count_C), group, side="right")
                left_C = np.bincount(row, minlength=size).astype(np.float64)
            yield left_C[None], np.ones(1)


def units(statistics_EK: np.ndarray, clusters: Sequence[str | None] | None = None) -> Units:
    """Examples as units, or clusters where any is named; an example without a cluster is its own."""
    row_CK, row_E, count_C = np.unique(statistics_EK, axis=0, return_inverse=True, return_counts=True)
    row_E, count_C = row_E.reshape(-1), count_C.astype(np.float64)
    if clusters is None or all(cluster is None for cluster in clusters):
        return Units(row_CK, count_C, len(row_E))
    from scipy.sparse import csr_array

    keys = [(0, str(i)) if cluster is None else (1, cluster) for i, cluster in enumerate(clusters)]
    index = {key: g for g, key in enumerate(dict.fromkeys(keys))}
    group_E = np.array([index[key] for key in keys])
    rows_GC = csr_array((np.ones(len(row_E)), (group_E, row_E)), shape=(len(index), len(row_CK)))
    return Units(row_CK, count_C, len(index), rows_GC)
