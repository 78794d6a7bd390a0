"""Words of a text as 64-bit numbers, for finding equal stretches of text: case, signs and spacing do not count.

Axes: W words of a text, S stretches of n words.
"""

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BASE = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=2_000_000)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def numbers(text: str) -> Hashes:
    """A number for each word, in order."""
    return np.array([_number(word) for word in re.findall(r"[^\W_]+", text.lower())], dtype=np.uint64)


def stretches(words_W: Hashes, n: int) -> Hashes:
    """A number for each run of `n` words; none where the text has fewer."""
    count = len(words_W) - n + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    found_S = np.zeros(count, dtype=np.uint64)
    for offset in range(n):  # a polynomial in BASE, modulo 2^64
        found_S = found_S * BASE + words_W[offset : offset + count]
    return found_S
