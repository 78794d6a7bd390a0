"""Averages over runs: of the runs that have a score, with how often a rung was chosen."""

import pytest

from tunewise.repeat import summarise


def verdict(chosen: str, **scores: float | None) -> dict[str, object]:
    return {
        "task": "t",
        "metric": "accuracy",
        "chosen": {"method": chosen, "base": "b"},
        "rungs": [
            {"method": name, "base": "b", "held_out": None if score is None else {"score": score}}
            for name, score in scores.items()
        ],
    }


def test_means_and_spreads_are_over_the_runs_with_a_score() -> None:
    summary = summarise([verdict("lora", lora=0.8, full=0.7), verdict("lora", lora=0.9, full=None)])
    lora, full = summary["rungs"]
    assert (lora["n"], lora["mean"], lora["chosen"]) == (2, pytest.approx(0.85), 2)
    assert lora["sd"] == pytest.approx(0.0707, abs=1e-4)
    assert (full["n"], full["mean"], full["sd"], full["chosen"]) == (1, 0.7, None, 0)
    assert summary["chosen"]["mean"] == pytest.approx(0.85)
    assert summary["runs"] == 2
