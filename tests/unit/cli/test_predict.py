"""`tunewise predict` with a bundle that answers conversations: it reads what such a bundle was trained on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.errors import DataError
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.bundle import save_bundle
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Prompt
from tunewise.types import Example, Message

TALK = ("how do I reset the password", "open the report", "my order")


@pytest.fixture
def bundle(tmp_path: Path, one_thread: None) -> Path:
    base = load_base(str(tiny_causal(tmp_path / "base")), device="cpu", dtype="float32")
    predictor = WrittenPredictor(base=base, policy="keep_start", prompt=Prompt(), decoding=Decoding(max_new_tokens=6))
    probe = Example(id="p", fields={"input": TALK[0]}, messages=(Message("user", TALK[0]),))
    kept = {"conversations": True}
    where = tmp_path / "bundle"
    save_bundle(
        predictor,
        where,
        task_name="talk",
        kind="generate",
        columns=("input",),
        policy="keep_start",
        probes=[probe],
        extra=kept,
    )
    return where


def answers(bundle: Path, rows: list[dict]) -> list[str]:
    path = bundle.parent / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ran = CliRunner().invoke(app, ["predict", str(bundle), "--input", str(path)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return [json.loads(line)["text"] for line in ran.stdout.splitlines()]


def test_a_file_of_the_training_format_is_answered_without_reading_its_answers(bundle: Path) -> None:
    talk = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), TALK, strict=True)]
    asked = answers(bundle, [{"messages": talk}])
    assert answers(bundle, [{"messages": [*talk, {"role": "assistant", "content": "refund the money"}]}]) == asked
    assert answers(bundle, [{"instruction": TALK[0]}]) == answers(bundle, [{"messages": talk[:1]}])


def test_rows_that_are_no_conversations_are_refused(bundle: Path) -> None:
    with pytest.raises(DataError, match="this bundle answers conversations, and there are none here"):
        answers(bundle, [{"text": "hello"}])
