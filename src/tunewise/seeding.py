"""Randomness by name: the same seed and the same names give the same numbers, whatever ran before."""

import hashlib

import numpy as np


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for this purpose; changes completely when any name changes."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator for this purpose, for example `generator(seed, "split", "train.csv")`."""
    return np.random.default_rng(derive(seed, *names))
