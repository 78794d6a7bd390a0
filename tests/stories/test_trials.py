"""A budget of trials: every rung has its default before any has more."""

import json
from pathlib import Path

from desk import tunewise


def test_rungs_that_come_late_are_not_left_out(desk: Path) -> None:
    methods = "[majority, zero_shot, retrieval, linear_probe, bitfit, lora]"
    task = desk / "task.yaml"
    task.write_text(task.read_text("utf-8").replace("{work: 900000}", "{trials: 16}"), encoding="utf-8")
    planned = tunewise(desk, "plan", "task.yaml", "--set", f"methods={methods}")
    assert planned.returncode == 0, planned.stderr
    done = tunewise(desk, "fit", "task.yaml", "--out", "run", "--set", f"methods={methods}")
    assert done.returncode == 0, done.stderr
    verdict = json.loads((desk / "run" / "verdict.json").read_text("utf-8"))
    assert {row["method"]: row["status"] for row in verdict["rungs"]} == dict.fromkeys(
        ("majority", "zero_shot", "retrieval", "linear_probe", "bitfit", "lora"), "finished"
    )
    assert verdict["budget"]["spent"]["trials"] <= 16
    assert "used up" not in planned.stdout
