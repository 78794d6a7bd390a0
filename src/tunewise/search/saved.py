"""What a bracket leaves behind, written and read: its best member's answers, all members' statistics, its trials."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewise.predictors.several import Thresholds, from_shares
from tunewise.types import Candidate, Curve, Finished, Prediction, Status, Trial, Unfinished

ANSWERS = "answers.jsonl"
"""Texts, or labels without probabilities, that were written for the race rows, in their order."""


def write_race(
    folder: Path,
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    tables: Sequence[np.ndarray | None],
    thresholds: Thresholds,
) -> None:
    """What the best member answered on race, where each label is given, and all members' statistics [E, K]."""
    np.save(folder / "statistics.npy", np.array(tables))
    if not labels or predictions[0].scores is None:  # texts, or labels that were written
        _write_answers(folder / ANSWERS, predictions)
        return
    np.save(folder / "scores.npy", np.array([[(p.scores or {})[label] for label in labels] for p in predictions]))
    if thresholds is None:
        np.save(folder / "labels.npy", np.array([labels.index(p.text) for p in predictions]))
    else:
        np.save(folder / "thresholds.npy", np.array(thresholds))


def _write_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """One line for each text, in ASCII, so that none can break a line."""
    rows = [
        {
            "text": p.text,
            "abstained": p.abstained,
            "target_log_probability": p.target_log_probability,
            "target_tokens": p.target_tokens,
        }
        for p in predictions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def race_predictions(folder: Path, labels: Sequence[str]) -> list[Prediction]:
    """The saved predictions of a bracket's best member on race."""
    if (folder / "race" / ANSWERS).exists():
        lines = (folder / "race" / ANSWERS).read_text("utf-8").split("\n")
        return [Prediction(**json.loads(line)) for line in lines if line]
    score_EL = np.load(folder / "race" / "scores.npy")
    if (folder / "race" / "thresholds.npy").exists():
        low_L = np.load(folder / "race" / "thresholds.npy")
        return from_shares(score_EL, tuple(labels), tuple(low_L.tolist()))
    label_E = np.load(folder / "race" / "labels.npy")
    return [
        Prediction(text=labels[label], scores=dict(zip(labels, map(float, row), strict=True)))
        for label, row in zip(label_E, score_EL, strict=True)
    ]


def race_statistics(folder: Path) -> np.ndarray:
    """Statistics [P, E, K] on race of all members of a bracket that were measured."""
    found: np.ndarray = np.load(folder / "race" / "statistics.npy")
    return found


def trial_from_plain(raw: dict[str, Any]) -> Trial:
    """The trial that `to_plain` made these values of."""
    values = {**raw, "candidate": Candidate(**raw["candidate"]), "status": Status(raw["status"])}
    values["curve"] = curve_from_plain(raw["curve"])
    if values["status"] is Status.FINISHED:
        values["notes"] = tuple(raw["notes"])
        return Finished(**values)
    return Unfinished(**values)


def curve_from_plain(raw: dict[str, Any]) -> Curve:
    """The curve that `to_plain` made these values of."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()}
    return Curve(**values)
