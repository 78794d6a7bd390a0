"""Let the most similar training examples vote, and show them as evidence.

E examples, N stored rows, K neighbours, L labels, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from tunewise.config import Truncation
from tunewise.errors import BundleError
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_arrays, read_settings, write_arrays, write_settings
from tunewise.predictors.head import unit, vectors
from tunewise.predictors.nearest import nearest
from tunewise.predictors.several import Thresholds, from_settings, from_shares, to_settings
from tunewise.types import Example, Prediction

SETTINGS, INDEX = "retrieved.json", "retrieved.safetensors"


class RetrievedPredictor:
    r"""$p(l|x) \propto \sum_{i \in N_k(x)} 1[y_i = l] \exp(\cos(f(x), f(x_i)) / \tau)$, neighbours found exactly.

    A stored row with the same text as the question votes like any other.
    """

    kind = "retrieved"

    def __init__(
        self,
        *,
        base: Encoder,
        labels: tuple[str, ...],
        policy: Truncation,
        vector_NH: np.ndarray,
        target_N: np.ndarray,
        texts: tuple[str, ...],
        neighbours: int,
        temperature: float,
        features: Features | None = None,
        thresholds: Thresholds = None,
    ) -> None:
        """Stored rows with the index of their label, or, with thresholds, 0 or 1 for each label.

        `features` looks vectors up and is not saved.

        Raises:
            BundleError: the shapes do not fit the base or each other, or a target is no label.
        """
        rows = len(texts)
        wanted = (rows,) if thresholds is None else (rows, len(labels))
        if vector_NH.shape != (rows, base.info.hidden_size) or target_N.shape != wanted or not rows:
            raise BundleError(
                f"retrieved: expected vectors ({rows}, {base.info.hidden_size}) and a target for each of {rows} texts, "
                f"found {vector_NH.shape} and {target_N.shape}. It was made for another base."
            )
        if not 1 <= neighbours <= rows or not temperature > 0:
            raise BundleError(
                f"retrieved: {neighbours} neighbours of {rows} rows at temperature {temperature} make no sense."
            )
        if target_N.min() < 0 or target_N.max() >= (len(labels) if thresholds is None else 2):
            raise BundleError(f"retrieved: a target lies outside the {len(labels)} labels.")
        self.base: Encoder | None = base
        self.labels, self.policy, self.features = labels, policy, features
        self.vector_NH = unit(vector_NH.astype(np.float32))
        self.target_N, self.texts = target_N.astype(np.int64), texts
        self.neighbours, self.temperature = neighbours, float(temperature)
        self.thresholds = thresholds

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if not examples:
            return []
        question_EH = unit(vectors(self.base, examples, self.policy, self.features))
        answers: list[Prediction] = []
        for nearest_K, cosine_K in nearest(question_EH, self.vector_NH, self.neighbours):
            vote_K = np.exp((cosine_K - cosine_K[0]) / self.temperature)
            share_L = self._votes(nearest_K, vote_K) / vote_K.sum()
            answer = from_shares(share_L[None], self.labels, self.thresholds)[0]
            answers.append(replace(answer, evidence=tuple(self.texts[i] for i in nearest_K)))
        return answers

    def _votes(self, nearest_K: np.ndarray, vote_K: np.ndarray) -> np.ndarray:
        """Weight of the neighbours that have each label, [L]."""
        if self.thresholds is None:
            return np.bincount(self.target_N[nearest_K], weights=vote_K, minlength=len(self.labels))
        votes_L: np.ndarray = vote_K @ self.target_N[nearest_K]
        return votes_L

    def save(self, folder: Path) -> None:
        assert self.base is not None
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "base": self.base.info.name,
            "labels": self.labels,
            "policy": self.policy,
            "neighbours": self.neighbours,
            "temperature": self.temperature,
            "texts": self.texts,
            **to_settings(self.thresholds),
        }
        write_settings(folder / SETTINGS, settings)
        write_arrays(folder / INDEX, {"vectors": self.vector_NH, "targets": self.target_N})

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        keys = {"base": str, "labels": list, "policy": str, "neighbours": int, "temperature": float, "texts": list}
        settings = read_settings(folder / SETTINGS, keys)
        base, rows = bases(settings["base"]), len(settings["texts"])
        labels = tuple(settings["labels"])
        thresholds = from_settings(settings, labels)
        targets = (rows,) if thresholds is None else (rows, len(labels))
        arrays = read_arrays(folder / INDEX, {"vectors": (rows, base.info.hidden_size), "targets": targets})
        return cls(
            base=base,
            labels=labels,
            thresholds=thresholds,
            policy=settings["policy"],
            vector_NH=arrays["vectors"],
            target_N=arrays["targets"],
            texts=tuple(settings["texts"]),
            neighbours=settings["neighbours"],
            temperature=settings["temperature"],
        )
