"""`tunewise compare` as it is shown: a table, lines, JSON, or a sentence and exit code 2."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise import cli
from tunewise.evaluation.metrics import METRICS


def write_run(folder: Path, right: int, *, words: str = "probe: well", method: str = "probe") -> Path:
    folder.mkdir()
    rows = [
        {
            "method": method,
            "base": "b",
            "split": "held_out",
            "id": str(i),
            "text": f"text {i}",
            "target": "yes",
            "label": "yes" if i < right else "no",
            "confidence": 0.8,
            "target_probability": 0.8,
            "chosen": True,
        }
        for i in range(100)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    (folder / "data.json").write_text(json.dumps({"labels": [{"label": "no"}, {"label": "yes"}]}))
    verdict = {
        "task": "t",
        "kind": "classify",
        "metric": "accuracy",
        "signature": METRICS.get("accuracy").signature,
        "level": 0.95,
        "words": words,
        "chosen": {"method": method, "base": "b"},
        "rungs": [{"method": method, "base": "b"}],
    }
    (folder / "verdict.json").write_text(json.dumps(verdict))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["tunewise", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_lines_in_a_pipe(tmp_path, monkeypatch, capsys):
    a, b = write_run(tmp_path / "a", 70), write_run(tmp_path / "b", 90, words="probe: better")
    assert run(monkeypatch, a, b) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        f"first run, {a}: probe: well",
        f"second run, {b}: probe: better",
        "accuracy; both answered the same 100 rows of held_out, so differences are paired. "
        "Differences: second minus first.",
    ]
    # Wilson's intervals of 70 and 90 of 100
    assert re.fullmatch(
        r"probe \(chosen\): 70\.0 % \[60\.4, 78\.1\]; 90\.0 % \[82\.6, 94\.5\]; "
        r"\+20\.0 \[\+1\d\.0, \+2\d\.0\]; p < 0\.001 by Holm; the second run is better",
        said[3],
    )
    assert len(said) == 4


def test_one_object_of_json(tmp_path, monkeypatch, capsys):
    a, b = write_run(tmp_path / "a", 70), write_run(tmp_path / "b", 90)
    assert run(monkeypatch, a, b, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["comparisons"][0]["difference"] == pytest.approx(0.2)
    assert found["pairing"] == {
        "paired": True,
        "agree": 100,
        "first": 100,
        "second": 100,
        "why": "both answered the same 100 rows of held_out, so differences are paired",
    }


def test_a_table_on_a_terminal(tmp_path, monkeypatch, capsys):
    a, b = write_run(tmp_path / "a", 70), write_run(tmp_path / "b", 90)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run(monkeypatch, a, b) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    header = next(line for line in shown.splitlines() if "finding" in line)
    assert header.split() == ["rungs", "first", "second", "difference", "p", "finding"]
    row = next(line for line in shown.splitlines() if line.startswith("probe (chosen)"))
    assert re.search(r"70\.0 % +90\.0 % +\+20\.0 \[.*\] +< 0\.001 +the second run is better", row)


def test_wrong_input_is_a_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    a = write_run(tmp_path / "a", 70)
    assert run(monkeypatch, a, tmp_path / "nowhere") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "nowhere holds no finished run (verdict.json is missing). Name a run folder." in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_in_a_run_steers_the_terminal(tmp_path, monkeypatch, capsys, terminal):
    a = write_run(tmp_path / "a", 70, words="\x1b]0;owned\x07 [bold]x[/bold]", method="\x1b[2Jm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    assert run(monkeypatch, a, a) == 0
    shown = capsys.readouterr().out
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "[bold]x[/bold]" in shown
