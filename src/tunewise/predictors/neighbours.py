r"""Which stored rows are shown before a question: the most similar ones, spread out where that is asked for.

E questions, N stored rows, K shown, C considered, H hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from tunewise.errors import BundleError
from tunewise.predictors.files import read_arrays, read_settings, write_arrays, write_settings
from tunewise.predictors.head import unit
from tunewise.predictors.nearest import nearest
from tunewise.prompts.prompt import Demonstration

SETTINGS, INDEX = "shown.json", "shown.safetensors"
CONSIDERED = 64
"""Nearest rows among which diversity chooses, at least."""


class Neighbours:
    r"""The stored rows nearest to a question by cosine, the nearest last (Liu et al. 2022, arXiv 2101.06804).

    With diversity $\lambda$ each further row is the one of largest
    $(1 - \lambda) \cos(q, x) - \lambda \max_{s} \cos(s, x)$ over the rows $s$ that are taken already: maximal marginal
    relevance (Carbonell and Goldstein 1998, there with $1 - \lambda$ for $\lambda$).

    Vectors are centred at the mean of the stored ones: the hidden states of a base that writes have a direction in
    common that says nothing (Mu and Viswanath 2018, arXiv 1702.01417).
    """

    def __init__(
        self, *, rows: tuple[Demonstration, ...], vector_NH: np.ndarray, count: int, diversity: float = 0.0
    ) -> None:
        """`vector_NH`: of each row, as its base gives it.

        Raises:
            BundleError: there are not as many rows as vectors, or not as many as are to be shown.
        """
        if len(rows) != len(vector_NH) or not 1 <= count <= len(rows) or not 0.0 <= diversity < 1.0:
            raise BundleError(
                f"shown: {count} of {len(rows)} rows with {len(vector_NH)} vectors at diversity {diversity} make "
                "no sense."
            )
        self.rows, self.vector_NH = rows, vector_NH.astype(np.float32)
        self.count, self.diversity = count, float(diversity)
        self._middle_H = self.vector_NH.astype(np.float64).mean(axis=0)
        self._centred_NH = self._centred(self.vector_NH)

    def of(self, question_EH: np.ndarray) -> list[tuple[Demonstration, ...]]:
        """What is shown before each question."""
        considered = self.count if self.diversity == 0 else min(len(self.rows), max(CONSIDERED, 2 * self.count))
        found = nearest(self._centred(question_EH), self._centred_NH, considered)
        return [tuple(self.rows[row] for row in reversed(self._chosen(row_C, cosine_C))) for row_C, cosine_C in found]

    def _centred(self, vector_EH: np.ndarray) -> np.ndarray:
        return unit((vector_EH - self._middle_H).astype(np.float32))

    def _chosen(self, row_C: np.ndarray, cosine_C: np.ndarray) -> list[int]:
        """Rows to show, the nearest first."""
        if len(row_C) == self.count:
            return [int(row) for row in row_C]
        vector_CH = self._centred_NH[row_C].astype(np.float64)
        taken, alike_C = [0], vector_CH @ vector_CH[0]
        while len(taken) < self.count:
            worth_C = (1.0 - self.diversity) * cosine_C - self.diversity * alike_C
            worth_C[taken] = -np.inf
            taken.append(int(worth_C.argmax()))
            alike_C = np.maximum(alike_C, vector_CH @ vector_CH[taken[-1]])
        return [int(row_C[place]) for place in sorted(taken)]

    def save(self, folder: Path) -> None:
        settings = {
            "count": self.count,
            "diversity": self.diversity,
            "rows": [{"fields": dict(row.fields), "answer": row.answer} for row in self.rows],
        }
        write_settings(folder / SETTINGS, settings)
        write_arrays(folder / INDEX, {"vectors": self.vector_NH})

    @classmethod
    def load(cls, folder: Path, hidden_size: int) -> Self | None:
        """What `save` wrote there; None where nothing was.

        Raises:
            BundleError: damaged, or of another base.
        """
        if not (folder / SETTINGS).exists():
            return None
        settings = read_settings(folder / SETTINGS, {"count": int, "diversity": float, "rows": list})
        try:
            rows = tuple(Demonstration(dict(row["fields"]), str(row["answer"])) for row in settings["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{SETTINGS}: the rows cannot be read ({error}). The bundle is damaged.") from error
        arrays = read_arrays(folder / INDEX, {"vectors": (len(rows), hidden_size)})
        return cls(rows=rows, vector_NH=arrays["vectors"], count=settings["count"], diversity=settings["diversity"])


def texts_of(shown: Sequence[Demonstration]) -> tuple[str, ...]:
    """The rows that an answer rests on, as evidence: the nearest first, each with its answer."""
    return tuple("\n".join((*map(str, row.fields.values()), row.answer)) for row in reversed(shown))
