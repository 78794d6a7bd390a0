"""Features of a frozen base, computed once and looked up by every head, neighbour search and report."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tunewise.config import Truncation
from tunewise.models.encoder import Encoder, answering
from tunewise.runs import write_atomic
from tunewise.types import Example


class Features(Protocol):
    """Gives vectors [examples, hidden] of a frozen base, float32: its own, or those after so many of its blocks."""

    def __call__(self, examples: Sequence[Example], layer: int | None = None) -> np.ndarray: ...


def searched_layers(depth: int) -> tuple[int, ...]:
    """Three quarters, a half and a quarter of the way through so many blocks, in the order they are worth trying."""
    places = dict.fromkeys(round(depth * share) for share in (0.75, 0.5, 0.25))
    return tuple(layer for layer in places if 0 < layer < depth)


@dataclass
class _Known:
    """Vectors by row."""

    vector_NH: np.ndarray
    place: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, rows: Sequence[tuple[str, ...]], vector_NH: np.ndarray) -> None:
        start = len(self.vector_NH)
        self.place.update({row: start + i for i, row in enumerate(rows)})
        self.vector_NH = np.concatenate([self.vector_NH, vector_NH])


class FeatureStore:
    """Calling it with examples gives their vectors [examples, hidden], float32.

    The rows of a run (`pool`) are computed together, at the first call, and kept in a file of the run folder, so that
    a resumed run works with the same bits. Other rows are computed when they are first asked for. Where a layer is
    asked for, the others that are worth trying come out of the same pass.
    """

    def __init__(self, base: Encoder, policy: Truncation, pool: Sequence[Example], path: Path | None) -> None:
        """`path` is the stem of the files, or None to keep the vectors in memory alone."""
        self._base = base
        self._policy: Truncation = policy
        self._pool = list(dict.fromkeys(example.texts for example in pool))
        self._path = path
        self._known: dict[int | None, _Known] = {}

    def __call__(self, examples: Sequence[Example], layer: int | None = None) -> np.ndarray:
        self.add(examples, layer)
        known = self._known[layer]
        return known.vector_NH[[known.place[example.texts] for example in examples]]

    def add(self, examples: Sequence[Example], layer: int | None = None) -> None:
        """Compute the vectors of those rows that are not known yet, in one go."""
        if layer not in self._known:
            self._fill(layer)
        known = self._known[layer]
        rows = [row for row in dict.fromkeys(example.texts for example in examples) if row not in known.place]
        if rows:
            known.add(rows, self._computed(rows, (layer,))[0])

    def _fill(self, layer: int | None) -> None:
        """The vectors of the pool, and of all layers that belong with this one."""
        layers: tuple[int | None, ...] = (layer,)
        if layer is not None:
            more = [each for each in searched_layers(self._base.depth) if each not in self._known]
            layers = tuple(dict.fromkeys((layer, *more)))
        vector_KNH = self._kept(layers) if self._pool else np.zeros((len(layers), 0, self._base.info.hidden_size))
        for each, vector_NH in zip(layers, vector_KNH, strict=True):
            self._known[each] = _Known(np.zeros((0, self._base.info.hidden_size), dtype=np.float32))
            self._known[each].add(self._pool, vector_NH.astype(np.float32, copy=False))

    def _kept(self, layers: tuple[int | None, ...]) -> np.ndarray:
        """Of the pool [layers, N, H], from the file where there is one."""
        if self._path is None:
            return self._computed(self._pool, layers)
        of_layers = () if layers == (None,) else (layers,)
        content = repr((self._base.info.sha256, self._policy, self._pool, *of_layers))
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        path = self._path.with_name(f"{self._path.name}-{digest[:16]}.npy")
        if path.is_file():
            known_KNH: np.ndarray = np.load(path)
            return known_KNH if of_layers else known_KNH[None]
        vector_KNH = self._computed(self._pool, layers)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, vector_KNH if of_layers else vector_KNH[0])
        write_atomic(path, buffer.getvalue())
        return vector_KNH

    def _computed(self, rows: Sequence[tuple[str, ...]], layers: tuple[int | None, ...]) -> np.ndarray:
        policy = answering(self._policy)
        inner = [layer for layer in layers if layer is not None]
        if inner:
            return self._base.layer_features(rows, policy, inner)
        return self._base.features(rows, policy)[None]
