"""The report says in words what the curves show, one row a trained rung."""

import re
from typing import Any

from tunewise.report.record import Record, read_record
from tunewise.report.sections.diagnosis import render

TRAIN, DEV = list(range(10, 401, 10)), list(range(50, 401, 50))


def trial(method: str, **values: Any) -> dict[str, Any]:
    plain = {
        "method": method,
        "base": "bundled:minilm",
        "status": "finished",
        "reason": None,
        "chosen": False,
        "dev_score": 0.9,
        "train_steps": TRAIN,
        "train_losses": [1.5 - 0.0035 * step for step in TRAIN],
        "dev_steps": DEV,
        "dev_losses": [1.5, 0.9, 0.6, 0.5, 0.6, 0.75, 0.9, 1.1],
        "best_step": 200,
    }
    return {**plain, **values}


def words(*curves: dict[str, Any]) -> str:
    html = str(render(Record(name="x", curves=list(curves))).html)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_each_trained_rung_has_its_finding_evidence_and_advice() -> None:
    said = words(trial("lora"), trial("full", dev_losses=[1.5 - 0.0025 * step for step in DEV], best_step=400))
    assert "lora bundled:minilm overfitting dev loss rose by 0.500 from its minimum 0.500 at step 200 of 400" in said
    assert "more regularisation or fewer steps." in said
    assert "full bundled:minilm underfitting in the last quarter of the steps dev still fell" in said


def test_the_best_trial_of_a_rung_speaks_for_it() -> None:
    good = trial("lora", dev_score=0.95, dev_losses=[1.5, 0.9, 0.6, 0.5, 0.45, 0.43, 0.42, 0.42], best_step=400)
    assert "healthy" in words(trial("lora"), good)
    assert "overfitting" in words(trial("lora", dev_score=0.97), good)


def test_a_short_curve_and_a_rung_that_diverged_have_rows_too() -> None:
    gone = {"train_steps": [], "train_losses": [], "dev_steps": [], "dev_losses": [], "dev_score": None}
    said = words(
        trial("lora", **{**gone, "dev_steps": [3], "dev_losses": [0.4]}),
        trial("full", **gone, status="failed", reason="diverged: loss nan at step 3 of 9, learning rate 1"),
        trial("majority", **gone),
    )
    assert "lora bundled:minilm - Too few points to say anything." in said
    assert "full bundled:minilm divergence diverged: loss nan at step 3 of 9, learning rate 1." in said
    assert "majority" not in said


def test_a_run_without_curves_says_so(run_folder) -> None:
    assert "No rung of this run was trained" in words(trial("majority", train_steps=[], dev_steps=[]))
    (run_folder / "curves.json").unlink()
    assert "left no training curves" in str(render(read_record(run_folder)).html)


def test_names_from_a_run_are_escaped(run_folder) -> None:
    said = str(render(Record(name="x", curves=[trial("<script>x</script>")])).html)
    assert "<script>" not in said
