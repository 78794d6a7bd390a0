"""Features of a frozen base, computed once and looked up by every head, neighbour search and report."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tunewise.config import Truncation
from tunewise.models.encoder import Encoder, answering
from tunewise.runs import write_atomic
from tunewise.types import Example


class FeatureStore:
    """Calling it with examples gives their vectors [examples, hidden], float32.

    The rows of a run (`pool`) are computed together, at the first call, and kept in a file of the run folder, so that
    a resumed run works with the same bits. Other rows are computed when they are first asked for.
    """

    def __init__(self, base: Encoder, policy: Truncation, pool: Sequence[Example], path: Path | None) -> None:
        """`path` is the stem of the file, or None to keep the vectors in memory alone."""
        self._base = base
        self._policy: Truncation = policy
        self._pool = [example.texts for example in pool]
        self._path = path
        self._place: dict[tuple[str, ...], int] = {}
        self._vector_NH = np.zeros((0, base.info.hidden_size), dtype=np.float32)

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        if self._pool:
            self._fill()
        self.add(examples)
        return self._vector_NH[[self._place[example.texts] for example in examples]]

    def add(self, examples: Sequence[Example]) -> None:
        """Compute the vectors of those rows that are not known yet, in one go."""
        rows = [row for row in dict.fromkeys(example.texts for example in examples) if row not in self._place]
        if rows:
            self._keep(rows, self._base.features(rows, answering(self._policy)))

    def _fill(self) -> None:
        rows = list(dict.fromkeys(self._pool))
        self._pool = []
        digest = hashlib.sha256(repr((self._base.info.sha256, self._policy, rows)).encode("utf-8", "surrogatepass"))
        path = self._path and self._path.with_name(f"{self._path.name}-{digest.hexdigest()[:16]}.npy")
        if path is not None and path.is_file():
            vector_NH = np.load(path)
        else:
            vector_NH = self._base.features(rows, answering(self._policy))
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                np.save(buffer, vector_NH)
                write_atomic(path, buffer.getvalue())
        self._keep(rows, vector_NH)

    def _keep(self, rows: Sequence[tuple[str, ...]], vector_NH: np.ndarray) -> None:
        start = len(self._vector_NH)
        self._place.update({row: start + i for i, row in enumerate(rows)})
        self._vector_NH = np.concatenate([self._vector_NH, vector_NH])
