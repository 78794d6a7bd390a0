"""A folder with a small task on a tiny base, as a user would have it."""

from pathlib import Path

import pytest
from desk import write_tickets


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path) -> Path:
    """tickets.csv, fresh.csv and task.yaml with a pinned budget of work."""
    write_tickets(tmp_path / "tickets.csv", 160, 1)
    write_tickets(tmp_path / "fresh.csv", 60, 2)
    (tmp_path / "task.yaml").write_text(
        f"name: desk\ntrain: tickets.csv\ntarget: intent\nslices: [region]\nmodels: [{tiny_base}]\n"
        "metric: accuracy\ntruncation: keep_start\nbudget: {work: 900000}\n",
        encoding="utf-8",
    )
    return tmp_path
