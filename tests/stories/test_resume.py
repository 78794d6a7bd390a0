"""A run that is killed at any instant and resumed says what the undisturbed run says."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from desk import comparable, environment, tunewise


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tunewise", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def killed_after(folder: Path, out: str, seconds: float) -> None:
    """A run that got SIGKILL after this time, or ended before it."""
    run = start(folder, "fit", "task.yaml", "--out", out)
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.wait()


def finish(folder: Path, out: str) -> None:
    """Resume where there is something to resume, else start again."""
    ready = (folder / out / "task.yaml").is_file()
    if not ready:
        subprocess.run(["rm", "-rf", str(folder / out)], check=True)
    arguments = ("--resume", out) if ready else ("task.yaml", "--out", out)
    done = tunewise(folder, "fit", *arguments)
    assert done.returncode == 0, done.stderr


def check_kills(desk: Path, instants: int, seed: int) -> None:
    started = time.monotonic()
    assert tunewise(desk, "fit", "task.yaml", "--out", "undisturbed").returncode == 0
    whole = time.monotonic() - started
    expected = comparable(desk / "undisturbed")
    # importing and loading take the first part of a run; there is little to lose before
    for i, share in enumerate(np.random.default_rng(seed).uniform(0.25, 1.0, instants)):
        killed_after(desk, f"killed-{i}", share * whole)
        finish(desk, f"killed-{i}")
        assert comparable(desk / f"killed-{i}") == expected, f"killed after {share:.2f} of the run"
        assert json.loads((desk / f"killed-{i}" / "verdict.json").read_text())["held_out_openings"]["this_run"] == 1


def test_five_kills_change_nothing(desk: Path) -> None:
    check_kills(desk, 5, seed=int(os.environ.get("TUNEWISE_KILL_SEED", "0")))


@pytest.mark.slow
def test_fifty_kills_change_nothing(desk: Path) -> None:
    check_kills(desk, 50, seed=1)


def test_ctrl_c_saves_and_resume_continues(desk: Path) -> None:
    text = (desk / "task.yaml").read_text("utf-8").replace("work: 900000", "work: 90000000")
    (desk / "task.yaml").write_text(text, encoding="utf-8")
    run = start(desk, "fit", "task.yaml", "--out", "stopped")
    deadline = time.monotonic() + 120
    while not list((desk / "stopped" / "trials").glob("lora-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 3
    verdict = json.loads((desk / "stopped" / "verdict.json").read_text("utf-8"))
    assert verdict["chosen"] is None
    assert "interrupted" in verdict["words"]
    again = start(desk, "fit", "--resume", "stopped")
    time.sleep(6.0)
    assert again.poll() is None, "a resumed run goes on"
    again.kill()
    again.wait()


def test_a_changed_data_file_is_noticed(desk: Path) -> None:
    killed_after(desk, "run", 60.0)
    with (desk / "tickets.csv").open("a", encoding="utf-8") as file:
        file.write("1-999,my card charge,billing,EU\n")
    done = tunewise(desk, "fit", "--resume", "run")
    assert done.returncode == 2
    assert "the data changed since this run started" in done.stderr


def test_a_run_that_the_clock_stopped_says_the_same_when_it_is_resumed(desk: Path) -> None:
    text = (desk / "task.yaml").read_text("utf-8").replace("{work: 900000}", "{minutes: 0.4}")
    (desk / "task.yaml").write_text(text, encoding="utf-8")
    assert tunewise(desk, "fit", "task.yaml", "--out", "run").returncode == 0
    ledger = sqlite3.connect(desk / "run" / "ledger.sqlite")
    last = [key for (key,) in ledger.execute("SELECT key FROM facts WHERE kind = 'bracket' ORDER BY number")][-1]
    ledger.close()
    before = comparable(desk / "run")
    again = tunewise(desk, "fit", "--resume", "run")
    assert again.returncode == 0, (again.stderr, last)
    assert comparable(desk / "run") == before


def test_a_failed_start_leaves_no_folder_behind(desk: Path) -> None:
    (desk / "long.csv").write_text("text,intent\n" + "word " * 600 + ",a\nshort,b\n" * 9, encoding="utf-8")
    done = tunewise(desk, "fit", "long.csv", "--out", "run", "--set", "target=intent")
    assert done.returncode == 2, done.stdout
    assert not (desk / "run").exists()
