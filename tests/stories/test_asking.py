"""A base that writes, from the task file to the answers of the bundle."""

import json
from pathlib import Path

import pytest
from desk import comparable, tunewise

from tunewise.models.tiny_causal import tiny_causal

METHODS = "[majority, zero_shot, few_shot, linear_probe, lora]"


@pytest.fixture
def written(desk: Path) -> Path:
    """The desk, on a base that writes."""
    base = tiny_causal(desk / "base", texts=[(desk / "tickets.csv").read_text("utf-8")])
    task = (desk / "task.yaml").read_text("utf-8").replace("900000", "300000")
    head, _, tail = task.partition("models: [")
    task = f"{head}models: [{base}]{tail.partition(']')[2]}"
    (desk / "task.yaml").write_text(
        f"{task}methods: {METHODS}\ninstruction: what is the ticket about\nwords: {{crash: error, login: password}}\n",
        encoding="utf-8",
    )
    return desk


def test_a_causal_base_climbs_and_its_bundle_answers_as_it_was_measured(written: Path) -> None:
    ran = tunewise(written, "fit", "task.yaml", "--out", "a")
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((written / "a" / "verdict.json").read_text("utf-8"))
    rungs = {row["method"]: row for row in verdict["rungs"]}
    assert {name for name, row in rungs.items() if row["status"] == "finished"} == set(
        METHODS.strip("[]").split(", ")
    ), ran.stdout
    assert rungs["few_shot"]["config"]["shots"] >= 3
    again = tunewise(written, "fit", "task.yaml", "--out", "b")
    assert again.returncode == 0, again.stderr
    assert comparable(written / "a") == comparable(written / "b")
    assert (written / "a" / "report.html").is_file()


def test_a_prompt_that_was_chosen_is_served_as_it_was_measured(written: Path) -> None:
    ran = tunewise(written, "fit", "task.yaml", "--out", "a", "--set", "methods=[few_shot]")
    assert ran.returncode == 0, ran.stderr
    answered = tunewise(written, "predict", "a/bundle", "--input", "fresh.csv")
    assert answered.returncode == 0, answered.stderr
    rows = [json.loads(line) for line in answered.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 60
    settings = json.loads((written / "a" / "bundle" / "predictor" / "prompted.json").read_text("utf-8"))
    assert settings["prompt"]["words"] == {"billing": "billing", "crash": "error", "login": "password"}
    # a prompt that somebody changed is no longer the one that was measured
    settings["prompt"]["instruction"] = "something else"
    (written / "a" / "bundle" / "predictor" / "prompted.json").write_text(json.dumps(settings), encoding="utf-8")
    refused = tunewise(written, "predict", "a/bundle", "--input", "fresh.csv")
    assert refused.returncode == 2
    assert "was changed or damaged" in refused.stderr


def test_prompt_show_prints_the_text_and_the_scored_tokens(written: Path) -> None:
    shown = tunewise(written, "prompt", "show", "task.yaml", "--rung", "few_shot")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("what is the ticket about\n\n")
    assert shown.stdout.count("\nAnswer: ") >= 4
    assert "place     id  scored  token" in shown.stdout
    assert "of which" in shown.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rung", "lora"), "`--rung` is one of zero_shot, few_shot, retrieval, got 'lora'"),
        (("--row", "nobody"), "no row of train or dev has the id 'nobody'"),
    ],
)
def test_prompt_show_says_what_it_cannot_show(written: Path, arguments, sentence) -> None:
    refused = tunewise(written, "prompt", "show", "task.yaml", *arguments)
    assert refused.returncode == 2
    assert sentence in refused.stderr


def test_an_encoder_reads_no_prompts(desk: Path) -> None:
    refused = tunewise(desk, "prompt", "show", "task.yaml")
    assert refused.returncode == 2
    assert "reads no prompts" in refused.stderr
