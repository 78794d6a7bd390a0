"""A linear head on the vectors of a frozen base.

E examples, L labels, H hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from tunewise.config import Truncation
from tunewise.errors import BundleError
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder, answering
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_arrays, read_settings, write_arrays, write_settings
from tunewise.predictors.several import Thresholds, from_logits, from_settings, to_settings
from tunewise.types import Example, Prediction

SETTINGS, WEIGHTS = "head.json", "head.safetensors"


class HeadPredictor:
    """softmax(W f(x) + b), or the sigmoid of each; with label vectors for W it answers by similarity to the labels."""

    kind = "head"

    def __init__(
        self,
        *,
        base: Encoder,
        labels: tuple[str, ...],
        policy: Truncation,
        weight_LH: np.ndarray,
        bias_L: np.ndarray,
        unit_length: bool = False,
        features: Features | None = None,
        thresholds: Thresholds = None,
        layer: int | None = None,
    ) -> None:
        """A head that reads the base's vectors, scaled to length 1 where `unit_length`; of a `layer` where it is given.

        `features` looks vectors up instead of computing them; it is not saved.

        Raises:
            BundleError: the shapes do not fit the base or the labels.
        """
        if weight_LH.shape != (len(labels), base.info.hidden_size) or bias_L.shape != (len(labels),):
            raise BundleError(
                f"head: expected weights ({len(labels)}, {base.info.hidden_size}) and as many biases as labels, found "
                f"{weight_LH.shape} and {bias_L.shape}. It was made for another base or other labels."
            )
        self.base: Encoder | None = base
        self.labels, self.policy, self.unit_length = labels, policy, unit_length
        self.weight_LH, self.bias_L = weight_LH.astype(np.float32), bias_L.astype(np.float32)
        self.features, self.layer = features, layer
        self.thresholds = thresholds

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if not examples:
            return []
        feature_EH = vectors(self.base, examples, self.policy, self.features, self.layer)
        if self.unit_length:
            feature_EH = unit(feature_EH)
        logits_EL = feature_EH.astype(np.float64) @ self.weight_LH.T.astype(np.float64) + self.bias_L
        return from_logits(logits_EL, self.labels, self.thresholds)

    def save(self, folder: Path) -> None:
        assert self.base is not None
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "base": self.base.info.name,
            "labels": self.labels,
            "policy": self.policy,
            "unit_length": self.unit_length,
            "layer": self.layer,
            **to_settings(self.thresholds),
        }
        write_settings(folder / SETTINGS, settings)
        write_arrays(folder / WEIGHTS, {"weight": self.weight_LH, "bias": self.bias_L})

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        settings = read_settings(folder / SETTINGS, {"base": str, "labels": list, "policy": str, "unit_length": bool})
        base, labels = bases(settings["base"]), tuple(settings["labels"])
        shapes = {"weight": (len(labels), base.info.hidden_size), "bias": (len(labels),)}
        arrays = read_arrays(folder / WEIGHTS, shapes)
        return cls(
            base=base,
            labels=labels,
            policy=settings["policy"],
            weight_LH=arrays["weight"],
            bias_L=arrays["bias"],
            unit_length=settings["unit_length"],
            thresholds=from_settings(settings, labels),
            layer=settings.get("layer"),
        )


def vectors(
    base: Encoder | None,
    examples: Sequence[Example],
    policy: Truncation,
    features: Features | None,
    layer: int | None = None,
) -> np.ndarray:
    """Vectors [E, H] of the frozen base, or after so many of its blocks: looked up where a run keeps them."""
    if features is not None:
        return features(examples) if layer is None else features(examples, layer)
    assert base is not None
    texts = [example.texts for example in examples]
    if layer is None:
        return base.features(texts, answering(policy))
    found: np.ndarray = base.layer_features(texts, answering(policy), (layer,))[0]
    return found


def unit(vector_EH: np.ndarray) -> np.ndarray:
    """Vectors of length 1; those that have it already keep their bits, and a vector of zeros stays one."""
    length_E = np.linalg.norm(vector_EH, axis=1, keepdims=True)
    length_E[(np.abs(length_E - 1) < 1e-6) | (length_E == 0)] = 1
    scaled: np.ndarray = vector_EH / length_E
    return scaled
