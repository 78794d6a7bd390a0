"""What is on disk is old or new, never torn; what was done is not done twice."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from tunewise.errors import RunError
from tunewise.runs import Ledger, Run, atomic_folder, count_opening, next_folder, write_atomic, write_json


def test_a_fact_is_made_once(tmp_path: Path) -> None:
    made = []
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for _ in range(2):
        assert ledger.once("kind", "key", lambda: made.append(1) or {"a": 1}) == {"a": 1}
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.recall("kind", "key") == {"a": 1}
    assert made == [1]


def test_a_fact_cannot_be_written_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.record("bracket", "x", 1)
    with pytest.raises(RunError, match="the fact bracket x is written twice"):
        ledger.record("bracket", "x", 2)


def test_facts_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for key in "cab":
        ledger.record("k", key, key)
    assert [key for key, _ in ledger.all("k")] == ["c", "a", "b"]


def test_a_damaged_ledger_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match="the ledger cannot be opened"):
        Ledger(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize("schema", [3, 99])
def test_a_run_of_another_version_is_not_continued(tmp_path: Path, schema: int) -> None:
    """Up to schema 3 the seeds of brackets came from a base's name: such a run would go on with other draws."""
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("UPDATE facts SET value = ? WHERE kind = 'schema'", (str(schema),))
    with pytest.raises(RunError, match=rf"written by another version \(schema {schema}.* begin a new run, with --out"):
        Ledger(path)


def test_nan_is_never_written_as_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdict.json"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full; free some space, then continue with --resume"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "bundle") as part:
        (part / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "bundle") as part:
        (part / "b").write_text(str(1 / 0))
    assert [p.name for p in (tmp_path / "bundle").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_run_folder_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("keep")
    with pytest.raises(RunError, match=r"holds files already\. Continue that run with --resume"):
        Run.create(tmp_path / "x")
    assert (tmp_path / "x" / "mine").read_text() == "keep"


def test_two_processes_cannot_work_in_one_run(tmp_path: Path) -> None:
    with (
        Run.create(tmp_path / "run"),
        pytest.raises(RunError, match=f"another process works in it .process {os.getpid()}"),
    ):
        Run.open(tmp_path / "run")
    with Run.open(tmp_path / "run"):
        pass


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        Run.open(tmp_path)


def test_a_file_where_the_run_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(RunError, match="a file stands where the run folder should be"):
        Run.create(tmp_path / "f")


def test_the_next_folder_is_above_all_taken_ones(tmp_path: Path) -> None:
    for name in ("t-1", "t-7", "t-x", "other-9"):
        (tmp_path / name).mkdir()
    assert next_folder("t", tmp_path) == tmp_path / "t-8"
    assert next_folder("t", tmp_path / "nowhere") == tmp_path / "nowhere" / "t-1"


def test_a_run_counts_as_one_opening_however_often_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert [count_opening("data", run) for run in ("a", "a", "b")] == [1, 1, 2]
    assert count_opening("other data", "a") == 1


def test_openings_are_unknown_where_they_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert count_opening("data", "a") is None


def test_json_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"text": "naïve ü 漢"})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"text": "naïve ü 漢"}
