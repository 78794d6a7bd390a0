"""A task of texts that a base has to learn: from the file to a verdict, a report and a bundle that writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from desk import tunewise

from tunewise.models.tiny_causal import tiny_causal

SAYS = {"cat": "meow", "dog": "woof", "sun": "warm", "tree": "leaf", "fish": "swim", "moon": "pale"}


def write_rows(path: Path, n: int, seed: int) -> None:
    """A word, and what goes with it."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            word, number = str(rng.choice(list(SAYS))), int(rng.integers(10, 99))
            row = {"id": f"{seed}-{i}", "asked": f"{number} {word}", "answer": SAYS[word]}
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def sayings(tmp_path: Path, one_thread: None) -> Path:
    write_rows(tmp_path / "sayings.jsonl", 200, 1)
    write_rows(tmp_path / "fresh.jsonl", 30, 2)
    base = tiny_causal(tmp_path / "base", texts=[" ".join([*SAYS, *SAYS.values()])])
    (tmp_path / "task.yaml").write_text(
        f"name: sayings\nkind: generate\ntrain: sayings.jsonl\ninput: asked\ntarget: answer\nmodels: [{base}]\n"
        "metric: exact_match\ntruncation: keep_start\nbudget: {work: 600000, trials: 7}\n"
        "methods: [majority, zero_shot, linear_probe, lora, full]\n"
        "settings: {full: {learning_rate: 0.01, batch_size: 16}, lora: {learning_rate: 0.02, batch_size: 16}}\n",
        encoding="utf-8",
    )
    return tmp_path


def test_what_is_trained_beats_the_prompts_and_writes_from_its_bundle(sayings: Path) -> None:
    ran = tunewise(sayings, "fit", "task.yaml", "--out", "a")
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((sayings / "a" / "verdict.json").read_text("utf-8"))
    rungs = {row["method"]: row for row in verdict["rungs"]}
    assert {name for name, row in rungs.items() if row["status"] == "finished"} == {
        "majority",
        "zero_shot",
        "lora",
        "full",
    }
    assert rungs["linear_probe"]["reason"] == "linear_probe answers classify tasks, not generate"
    score = {name: row["held_out"]["score"] for name, row in rungs.items() if row["held_out"]}
    assert score["full"] > max(score["majority"], score["zero_shot"]) + 0.3, score
    assert verdict["chosen"]["method"] == "full"
    page = (sayings / "a" / "report.html").read_text("utf-8")
    assert "Texts are written here; there are no labels." in page
    answered = tunewise(sayings, "predict", "a/bundle", "--input", "fresh.jsonl")
    assert answered.returncode == 0, answered.stderr
    said = [json.loads(line)["text"] for line in answered.stdout.splitlines()]
    wanted = [json.loads(line)["answer"] for line in (sayings / "fresh.jsonl").read_text("utf-8").splitlines()]
    assert np.mean([a == b for a, b in zip(said, wanted, strict=True)]) > 0.5
