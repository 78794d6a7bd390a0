"""The ladder as a scikit-learn classifier: texts in, labels out; the climb is inside `fit`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from tunewise.config import Task
from tunewise.errors import DataError
from tunewise.predictors.bundle import Bundle, load_bundle
from tunewise.story.fit import fit_task

Texts = Sequence[str] | Sequence[tuple[str, str]]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Chooses and fits the adaptation method that is worth its cost on the texts it is given.

    A part of the rows is kept to choose on (dev) and to report on (held_out), so give it all the rows there are.
    """

    def __init__(
        self,
        models: Sequence[str] = ("bundled:minilm",),
        minutes: float | None = 5.0,
        work: int | None = None,
        metric: str = "macro_f1",
        methods: Sequence[str] | None = None,
        truncation: str = "keep_start",
        device: str = "auto",
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        """Settings as in a task file; `out` keeps the run folder, None forgets it and keeps the bundle in memory."""
        self.models = models
        self.minutes = minutes
        self.work = work
        self.metric = metric
        self.methods = methods
        self.truncation = truncation
        self.device = device
        self.seed = seed
        self.out = out

    def fit(self, X: Texts, y: Sequence[Any]) -> Self:
        """Climb the ladder on texts (or pairs of texts) and their labels.

        Raises:
            DataError: X is not a list of texts, its length differs from y's, or there are fewer than two classes.
        """
        rows = _rows(X)
        if len(rows) != len(y):
            raise DataError(f"Classifier.fit: {len(rows)} texts but {len(y)} labels; give one label per text.")
        if any(isinstance(value, (list, tuple, set, np.ndarray)) for value in y):
            raise DataError(
                "Classifier.fit: y holds several labels for a text; this class gives one. Use tunewise.fit with rows "
                "whose label is a list."
            )
        self.classes_ = np.unique(np.asarray(y))
        if len(self.classes_) < 2:
            raise DataError("Classifier.fit: y has a single class; two or more are needed.")
        names = [str(value) for value in self.classes_]
        self.labels_ = names if len(set(names)) == len(names) else [f"{i}: {name}" for i, name in enumerate(names)]
        places = np.searchsorted(self.classes_, np.asarray(y))
        table = [{**row, "label": self.labels_[place]} for row, place in zip(rows, places, strict=True)]
        task = Task.from_dict(
            {
                "name": "classifier",
                "data": {"train": table},
                "input": [name for name in table[0] if name != "label"],
                "target": "label",
                "metric": self.metric,
                "models": list(self.models),
                "methods": None if self.methods is None else list(self.methods),
                "truncation": self.truncation,
                "device": self.device,
                "seed": self.seed,
                # a label that is written has no probability, which predict_proba gives
                "settings": {rung: {"answer": "scored"} for rung in ("zero_shot", "few_shot", "retrieval")},
                "budget": {"work": self.work} if self.work is not None else {"minutes": self.minutes},
            }
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(self.out) if self.out else Path(scratch) / "run"
            self.verdict_ = fit_task(task, folder=folder)
            bundle = folder / "bundle"
            self.bundle_files_ = {
                str(file.relative_to(bundle)): file.read_bytes() for file in sorted(bundle.rglob("*")) if file.is_file()
            }
            self._bundle = load_bundle(bundle, device=self.device)
        return self

    def predict(self, X: Texts) -> np.ndarray:
        """The label of each text, from `classes_`."""
        check_is_fitted(self, "bundle_files_")
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Probability of each class, [texts, classes], in the order of `classes_`."""
        check_is_fitted(self, "bundle_files_")
        predictions = self._loaded().predict([tuple(row.values()) for row in _rows(X)])
        shares = [p.scores or {} for p in predictions]
        return np.array([[share.get(label, 0.0) for label in self.labels_] for share in shares])

    def _loaded(self) -> Bundle:
        """The bundle; read again from its bytes where this object was unpickled."""
        if getattr(self, "_bundle", None) is None:
            with tempfile.TemporaryDirectory() as scratch:
                for name, raw in self.bundle_files_.items():
                    path = Path(scratch) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(raw)
                self._bundle = load_bundle(Path(scratch), device=self.device)
        return self._bundle

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_bundle", None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags


def _rows(texts: Texts) -> list[dict[str, str]]:
    if isinstance(texts, str):
        raise DataError("Classifier: X is one text; give a list of texts.")
    rows = []
    for i, text in enumerate(texts):
        parts = tuple(text) if isinstance(text, (tuple, list)) else (text,)
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
            raise DataError(f"Classifier: X[{i}] is {type(text).__name__}; expected a text or a pair of texts.")
        rows.append({"text": str(parts[0])} if len(parts) == 1 else {"text_a": str(parts[0]), "text_b": str(parts[1])})
    return rows
