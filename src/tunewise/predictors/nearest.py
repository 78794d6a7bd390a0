"""The stored rows nearest to a question by cosine, found exactly.

E questions, N stored rows, K nearest, H hidden size.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_CELLS = 16_000_000
"""Similarities held at a time: 64 MB."""
FLOAT32_SLACK = 1e-5
"""How far a float32 cosine may be off; rows that close to the last neighbour are compared again, exactly."""
DECIMALS = 9
"""Cosines that agree to so many are equal, and the earlier row comes first."""


def nearest(question_EH: np.ndarray, vector_NH: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each question the rows of the largest cosines and those cosines in float64, largest first.

    All vectors have length 1. Of equal cosines the earlier row comes first.
    """
    size = max(1, BLOCK_CELLS // len(vector_NH))
    place = len(vector_NH) - count
    for start in range(0, len(question_EH), size):
        block_BH = question_EH[start : start + size]
        for question_H, rough_N in zip(block_BH, block_BH @ vector_NH.T, strict=True):
            near = np.flatnonzero(rough_N >= np.partition(rough_N, place)[place] - FLOAT32_SLACK)
            cosine = np.round(vector_NH[near].astype(np.float64) @ question_H.astype(np.float64), DECIMALS)
            order_K = np.argsort(-cosine, kind="stable")[:count]
            yield near[order_K], cosine[order_K]
