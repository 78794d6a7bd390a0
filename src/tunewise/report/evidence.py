"""The files a report is built from, written once at the end of a run."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewise.data.audit import Finding
from tunewise.data.load import Data
from tunewise.evaluation.evaluate import Evaluation, confidence
from tunewise.runs import write_atomic, write_json
from tunewise.types import Example, Finished, Prediction, Trial, target_text, to_plain

MISTAKES = 25
NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known at the end of a run and is not in its verdict."""

    data: Data
    held_out: Sequence[Example]
    choose: Sequence[Example]
    findings: Sequence[Finding]
    lengths: dict[str, Any]
    max_tokens: int
    policy: str
    notes: Sequence[str]
    trials: Sequence[tuple[str, str, Trial, bool]]
    """Method, base, trial, and whether it is the chosen one."""
    predictions: Sequence[tuple[str, str, str, Sequence[Example], Sequence[Prediction], bool]]
    """Method, base, "dev" or "held_out", rows, predictions, and whether it is the chosen one."""
    evaluation: Evaluation
    """Of the chosen predictor on held_out."""
    chosen_predictions: Sequence[Prediction]
    thresholds: Sequence[float] | None = None
    """Of the chosen predictor, for each of several labels."""
    features: Callable[[Sequence[Example]], np.ndarray]


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Write data.json, curves.json, slices.json, mistakes.json and predictions.parquet into the run folder.

    Where a text may have several labels also labels.json, how each of them fares.
    """
    if evidence.evaluation.by_label:
        thresholds = evidence.thresholds or ()
        rows = [
            to_plain(score) | {"threshold": low}
            for score, low in zip(evidence.evaluation.by_label, thresholds, strict=True)
        ]
        write_json(folder / "labels.json", rows)
    write_json(folder / "data.json", _data(evidence))
    write_json(folder / "curves.json", [_curve(*item) for item in evidence.trials])
    write_json(folder / "slices.json", _slices(evidence.evaluation))
    write_json(folder / "mistakes.json", _mistakes(evidence))
    _write_predictions(folder / "predictions.parquet", evidence)


def _data(evidence: Evidence) -> dict[str, Any]:
    data = evidence.data
    parts = {"train": data.train, "dev": data.dev, "held_out": evidence.held_out}
    counts = {part: _count(rows) for part, rows in parts.items()}
    lengths = np.array(evidence.lengths["lengths"])
    return {
        "notes": list(evidence.notes),
        "columns": to_plain(data.columns),
        "n": {part: len(rows) for part, rows in parts.items()},
        "labels": [{"label": label, **{part: counts[part].get(label, 0) for part in parts}} for label in data.labels],
        "lengths": {
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
            "max": int(lengths.max()),
            "limit": evidence.max_tokens,
            "too_long": int(evidence.lengths["too_long"]),
            "policy": evidence.policy,
        },
        "findings": [to_plain(finding) for finding in evidence.findings],
    }


def _count(rows: Sequence[Example]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        for label in row.labels:
            counts[label] = counts.get(label, 0) + 1
    return counts


def _curve(method: str, base: str, trial: Trial, chosen: bool) -> dict[str, Any]:
    return {
        "key": trial.candidate.key,
        "method": method,
        "base": base,
        "config": dict(trial.candidate.config),
        "status": trial.status.value,
        "reason": None if isinstance(trial, Finished) else trial.reason,
        "chosen": chosen,
        "dev_score": trial.score if isinstance(trial, Finished) else None,
        **to_plain(trial.curve),
    }


def _slices(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "column": part.column,
            "value": part.value,
            "n": part.score.n,
            "score": part.score.value,
            "low": part.score.low,
            "high": part.score.high,
        }
        for part in evaluation.slices
    ]


def _mistakes(evidence: Evidence) -> list[dict[str, Any]]:
    train = evidence.data.train
    worst = list(evidence.evaluation.mistakes[:MISTAKES])
    if not worst:
        return []
    near = _unit(evidence.features([evidence.held_out[i] for i in worst])) @ _unit(evidence.features(train)).T
    rows = []
    for i, similarity_N in zip(worst, near, strict=True):
        example, prediction = evidence.held_out[i], evidence.chosen_predictions[i]
        nearest = np.argsort(-similarity_N, kind="stable")[:NEIGHBOURS]
        rows.append(
            {
                "id": example.id,
                "text": "\n".join(example.texts),
                "target": target_text(example.target),
                "label": prediction.text,
                "confidence": None if prediction.scores is None else confidence(example.target or (), prediction),
                "neighbours": [
                    {
                        "text": "\n".join(train[n].texts),
                        "target": target_text(train[n].target),
                        "similarity": round(float(similarity_N[n]), 4),
                    }
                    for n in nearest
                ],
            }
        )
    return rows


def _unit(vector_EH: np.ndarray) -> np.ndarray:
    unit_EH: np.ndarray = vector_EH / np.maximum(np.linalg.norm(vector_EH, axis=1, keepdims=True), 1e-12)
    return unit_EH


def _write_predictions(path: Path, evidence: Evidence) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "method": method,
            "base": base,
            "split": part,
            "id": example.id,
            "text": "\n".join(example.texts),
            "target": target_text(example.target),
            "label": prediction.text,
            "confidence": (prediction.scores or {}).get(prediction.text),
            "target_probability": (prediction.scores or {}).get(str(example.target)),
            "abstained": prediction.abstained,
            "references": list(example.references),
            "target_log_probability": prediction.target_log_probability,
            "target_tokens": prediction.target_tokens,
            "cluster": example.cluster,
            "chosen": chosen,
        }
        for method, base, part, examples, predictions, chosen in evidence.predictions
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_atomic(path, buffer.getvalue())
