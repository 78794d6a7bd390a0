"""Texts that were seen before, exactly or nearly: MinHash with bands (Broder 1997; Leskovec et al., chapter 3).

Axes: S stretches of a text, P permutations, B bands of rows.
"""

import hashlib
from typing import Literal

import numpy as np

from pretraining.words import Hashes, numbers, stretches

STRETCH = 5
BANDS, ROWS = 16, 8
NEAR = 0.7
"""Texts with this share of five-word stretches in common are near duplicates; bands find nine in ten at 0.75."""


class Seen:
    """Remembers texts; the first of those that are alike stays."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._odd_P = rng.integers(1, 2**63, size=BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._add_P = rng.integers(0, 2**63, size=BANDS * ROWS, dtype=np.uint64)
        self._exact: set[bytes] = set()
        self._signatures: list[Hashes] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def before(self, text: str) -> Literal["exact", "near"] | None:
        """Whether the text, or one like it, was asked about before; if not, it is remembered."""
        words_W = numbers(text)
        exact = hashlib.blake2b(words_W.tobytes(), digest_size=16).digest()
        if exact in self._exact:
            return "exact"
        self._exact.add(exact)
        signature_P = self.signature(words_W)
        keys = [(b, signature_P[b * ROWS : (b + 1) * ROWS].tobytes()) for b in range(BANDS)]
        for other in sorted({i for key in keys for i in self._bands.get(key, ())}):
            if np.mean(self._signatures[other] == signature_P) >= NEAR:
                return "near"
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature_P)
        return None

    def signature(self, words_W: Hashes) -> Hashes:
        """The smallest of the stretches' numbers under each permutation; texts share these as they share stretches."""
        found_S = np.unique(stretches(words_W, min(STRETCH, max(len(words_W), 1))))
        if not len(found_S):
            return np.zeros(BANDS * ROWS, dtype=np.uint64)
        mixed_PS = self._odd_P[:, None] * found_S[None, :] + self._add_P[:, None]
        smallest_P: Hashes = (mixed_PS ^ (mixed_PS >> np.uint64(29))).min(axis=1)
        return smallest_P
