"""Warm start: the nearest tasks' winners, as changes of this task's default."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.errors import ConfigError
from tunewise.search.prior import earlier_winners, first_to_try


def leave_run(folder: Path, rows: int, labels: int, **config: Any) -> None:
    folder.mkdir(parents=True)
    row = {"method": "lora", "base": "b", "status": "finished", "config": {"epochs": 9.0, **config}}
    failed = {"method": "full", "base": "b", "status": "failed", "config": {}}
    (folder / "verdict.json").write_text(json.dumps({"n": {"train": rows - 100, "dev": 100}, "rungs": [row, failed]}))
    (folder / "data.json").write_text(json.dumps({"labels": [{}] * labels}))


def test_the_nearest_tasks_winners_come_first_with_this_tasks_epochs(tmp_path: Path) -> None:
    leave_run(tmp_path / "far", 50_000, 70, learning_rate=0.1)
    leave_run(tmp_path / "near", 1_100, 2, learning_rate=0.2)
    leave_run(tmp_path / "same again", 1_100, 2, learning_rate=0.2)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "verdict.json").write_text("{")
    earlier = earlier_winners(tmp_path, rows=1_000, labels=2)
    assert [each.config["learning_rate"] for each in earlier] == [0.2, 0.2, 0.1]
    default = {"learning_rate": 0.3, "rank": 8, "epochs": 3.0}
    found = first_to_try(earlier, "lora", "b", ["learning_rate", "rank"], default)
    assert found == [{**default, "learning_rate": 0.2}, {**default, "learning_rate": 0.1}]
    assert first_to_try(earlier, "full", "b", ["learning_rate"], default) == []
    assert first_to_try(earlier, "lora", "other", ["learning_rate"], default) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`warm_start` names .*nowhere, which is no folder"):
        earlier_winners(tmp_path / "nowhere", rows=10, labels=2)
