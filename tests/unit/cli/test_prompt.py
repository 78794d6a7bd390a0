"""`tunewise prompt show`: nothing that a prompt lost goes unsaid."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.models.tiny_causal import tiny_causal


@pytest.fixture
def dialogues(tmp_path: Path, one_thread: None) -> Path:
    """Rows of the shape of DialogSum, for a base that reads 256 tokens: some too long, all too long to show four."""
    turns = "#Person1#: have you had any type of cold lately\\n#Person2#: no I have not"
    with (tmp_path / "talks.jsonl").open("w", encoding="utf-8") as file:
        for i in range(24):
            talk = "\n".join([turns] * (1 + i % 4 * 2))
            row = {"fname": f"dev_{i}", "dialogue": f"{i} {talk}", "summary": f"#Person2# has no cold, case {i}"}
            file.write(json.dumps(row) + "\n")
    tiny_causal(tmp_path / "base", texts=[(tmp_path / "talks.jsonl").read_text("utf-8")])
    return tmp_path


def shown(folder: Path, *arguments: str) -> str:
    settings = ("--set", "kind=generate", "--set", "truncation=keep_start", "--model", str(folder / "base"))
    done = CliRunner().invoke(app, ["prompt", "show", str(folder / "talks.jsonl"), *settings, *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_demonstrations_that_had_no_room_are_counted(dialogues: Path) -> None:
    said = shown(dialogues, "--rung", "few_shot", "--row", "1").splitlines()[-1]
    assert said.startswith("1 prompt was made to fit the base: demonstrations were left out")


def test_what_a_row_lost_is_counted(dialogues: Path) -> None:
    assert "made to fit the base: 1 row lost" in shown(dialogues, "--row", "4").splitlines()[-1]


def test_where_all_fits_nothing_is_said_of_it(dialogues: Path) -> None:
    assert shown(dialogues, "--row", "1").splitlines()[-1].endswith("the base reads 256.")
