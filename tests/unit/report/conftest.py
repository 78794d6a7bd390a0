"""Run folders as a fit leaves them, small and made up: a dozen intents, and a variant with 77."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.seeding import generator

TWELVE = [
    "refund",
    "cancel_subscription",
    "login_problem",
    "invoice_copy",
    "bug_report",
    "feature_request",
    "upgrade_plan",
    "slow_performance",
    "data_export",
    "change_address",
    "team_members",
    "praise",
]
WORDS = [
    "my card was charged twice",
    "I cannot sign in since the update",
    "where do I find last month's invoice",
    "the export stops at half",
    "please close our account",
    "how do I add a colleague",
    "it takes minutes to load a page",
    "we moved, our new address is",
    "thanks, that solved it",
    "could you add dark mode",
    "the total is wrong again",
]


def rung(method: str, score: float, seconds: float, work: int, **more: Any) -> dict[str, Any]:
    def part(value: float, half: float) -> dict[str, float]:
        return {"score": value, "low": value - half, "high": min(value + half, 1.0)}

    return {
        "method": method,
        "base": "bundled:minilm",
        "status": "finished",
        "reason": None,
        "config": {},
        "dev": part(score + 0.006, 0.016),
        "held_out": part(score, 0.011),
        "seconds": seconds,
        "trials": 1,
        "work": work,
        "share_of_budget": work / 9_000_000,
        "under_searched": False,
        "peak_memory_bytes": 310 << 20,
        "trainable_parameters": 0,
        "latency_ms_per_example": 6.4,
        "seed_sd": None,
        "vs_best": {
            "on": "held_out",
            "difference": round(score - 0.916, 4),
            "low": round(score - 0.916 - 0.005, 4),
            "high": round(score - 0.916 + 0.006, 4),
            "p_adjusted": 0.0004 if score < 0.9 else 0.21,
        },
    } | more


def unfinished(method: str, status: str, reason: str) -> dict[str, Any]:
    gap = {"score": None, "low": None, "high": None}
    return rung(method, 0.0, 0.0, 0) | {
        "status": status,
        "reason": reason,
        "dev": gap,
        "held_out": gap,
        "vs_best": None,
        "seconds": 3.0,
    }


def make_verdict() -> dict[str, Any]:
    return {
        "version": 1,
        "task": "support-intents",
        "kind": "classify",
        "metric": "accuracy",
        "n": {"train": 9003, "dev": 1000, "held_out": 3080},
        "rungs": [
            rung("majority", 0.118, 0.004, 0, latency_ms_per_example=0.002),
            rung("zero_shot", 0.622, 2.1, 41_000),
            rung("retrieval", 0.884, 9.4, 210_000, trials=6, latency_ms_per_example=7.1),
            rung("linear_probe", 0.912, 11.8, 212_000, trials=8, trainable_parameters=4_620, seed_sd=0.0011),
            rung(
                "lora",
                0.916,
                402.0,
                8_060_000,
                trials=16,
                trainable_parameters=151_308,
                peak_memory_bytes=1_288 << 20,
                seed_sd=0.0034,
            ),
            rung(
                "full",
                0.909,
                388.0,
                7_900_000,
                trials=2,
                trainable_parameters=22_713_216,
                under_searched=True,
                peak_memory_bytes=2_100 << 20,
                latency_ms_per_example=6.5,
                reason="Closed early: its optimistic bound 91.4 % lies below the best minus the margin.",
            ),
            unfinished("prompt_tuning", "skipped", "prompt_tuning needs a base that reads prompts."),
            unfinished("bitfit", "failed", "bitfit: the loss was not finite after step 40; lower `rate`."),
            unfinished("adapters", "out_of_budget", "Its first candidate needs about 6 min; 2 min were left."),
        ],
        "level": 0.95,
        "margin": 0.01,
        "resolved": True,
        "rows_to_resolve": None,
        "chosen": {
            "method": "linear_probe",
            "base": "bundled:minilm",
            "why": "It is the cheapest rung that is not worse than the best, lora, by more than 1 point.",
        },
        "held_out_openings": {"this_run": 1, "all_runs": 2},
        "budget": {
            "asked": {"minutes": 15},
            "work": 9_000_000,
            "spent": {"minutes": 13.8, "work": 8_700_000, "trials": 34},
        },
        "seed": 0,
        "environment": {"python": "3.11.9", "torch": "2.8.0", "cpu": "2 cores", "device": "cpu"},
        "notes": ["Seeds were dropped for `full`: no budget was left for them."],
        "started": "2025-03-02T10:15:00+00:00",
        "tunewise": "0.1.0",
        "signature": "accuracy|n:all",
    }


def make_curves() -> list[dict[str, Any]]:
    rows = []
    for method, trials, floor in (("lora", 8, 0.34), ("full", 2, 0.36)):
        for i in range(trials):
            rng = generator(i, "curve", method)
            stop = 300 if i < 2 else 60 * (1 + i % 3)
            dev = list(range(20, stop + 1, 20))
            train = list(range(5, stop + 1, 5))
            speed = 60 + 25 * i
            fall = [floor + 0.03 * i + 2.1 * float(np.exp(-s / speed)) for s in dev]
            noisy = [floor - 0.08 + 2.2 * float(np.exp(-s / speed)) + float(rng.normal(0, 0.05)) for s in train]
            rows.append(
                {
                    "key": f"{method}-{i}",
                    "method": method,
                    "base": "bundled:minilm",
                    "config": {"rate": 1e-3},
                    "status": "finished" if i < 2 else "out_of_budget",
                    "reason": None if i < 2 else "Stopped by halving.",
                    "chosen": False,
                    "dev_score": 0.916 - 0.01 * i if i < 2 else None,
                    "train_steps": train,
                    "train_losses": noisy,
                    "dev_steps": dev,
                    "dev_losses": fall,
                }
            )
    return rows


def make_predictions(labels: list[str], n: int) -> list[dict[str, Any]]:
    rng = generator(0, "predictions")
    rows = []
    for split in ("dev", "held_out"):
        for i in range(n):
            target = int(rng.integers(len(labels)))
            wrong = (target + int(rng.integers(1, 3))) % len(labels)
            label = target if rng.random() < 0.9 else wrong
            rows.append(
                {
                    "method": "linear_probe",
                    "base": "bundled:minilm",
                    "split": split,
                    "id": f"{split}-{i}",
                    "text": f"{WORDS[i % len(WORDS)]} ({split} ticket {i})",
                    "target": labels[target],
                    "label": labels[label],
                    "confidence": 0.8,
                    "target_probability": 0.6,
                    "chosen": True,
                }
            )
    return rows


def write_run(folder: Path, labels: list[str], n: int = 300) -> Path:
    folder.mkdir()
    predictions = make_predictions(labels, n)
    wrong = [r for r in predictions if r["split"] == "held_out" and r["target"] != r["label"]][:25]
    mistakes = [
        {
            "id": r["id"],
            "text": r["text"],
            "target": r["target"],
            "label": r["label"],
            "confidence": 0.99 - 0.01 * i,
            "neighbours": [
                {
                    "text": f"{WORDS[(i + k) % len(WORDS)]}, training row {i}-{k}",
                    "target": r["label"],
                    "similarity": 0.91 - 0.05 * k,
                }
                for k in range(3)
            ],
        }
        for i, r in enumerate(wrong)
    ]
    data = {
        "notes": ["The delimiter was found to be a comma."],
        "columns": {"inputs": ["message"], "target": "intent", "slices": ["region"], "cluster": None},
        "n": {"train": 9003, "dev": 1000, "held_out": 3080},
        "labels": [{"label": x, "train": 900 - 11 * i, "dev": 90, "held_out": 40} for i, x in enumerate(labels)],
        "lengths": {"median": 12, "p95": 31, "max": 98, "limit": 256, "too_long": 0, "policy": "refuse"},
        "findings": [
            {
                "check": "duplicates",
                "severity": "warning",
                "sentence": "14 rows of train are in held_out too.",
                "count": 14,
                "ids": [f"train-{i}" for i in range(14)],
            },
            {
                "check": "language",
                "severity": "info",
                "sentence": "About 2 % of rows are not English.",
                "count": 180,
                "ids": ["train-7", "train-90"],
            },
        ],
    }
    slices = [
        {"column": "region", "value": v, "n": n, "score": s, "low": s - h, "high": min(s + h, 1.0)}
        for v, n, s, h in (
            ("EU", 1500, 0.921, 0.013),
            ("US", 1210, 0.914, 0.016),
            ("APAC", 310, 0.871, 0.04),
            ("LATAM", 60, 0.85, 0.1),
        )
    ]
    for name, value in (
        ("verdict", make_verdict()),
        ("data", data),
        ("curves", make_curves()),
        ("slices", slices),
        ("mistakes", mistakes),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    (folder / "task.yaml").write_text("name: support-intents\ndata: {train: tickets.csv}\nmetric: accuracy\nseed: 0\n")
    return folder


Change = Callable[..., None]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", TWELVE)


@pytest.fixture
def run_folder_77(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "run77", [f"{TWELVE[i % 12]}_{WORDS[i % 11].split()[-1]}_{i}" for i in range(77)], n=900
    )


@pytest.fixture
def verdict() -> dict[str, Any]:
    return make_verdict()


@pytest.fixture
def change() -> Change:
    """Rewrite one JSON file of a run: `change(folder, "data", lambda value: ...)`."""

    def edit(folder: Path, name: str, make: Callable[[Any], Any]) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(make(json.loads(path.read_text()))))

    return edit
