"""A task of texts to be written, from the file to the answers of the bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from desk import FILLER, WORDS, comparable, tunewise

from tunewise.models.tiny_causal import tiny_causal


def write_pairs(path: Path, n: int, seed: int) -> None:
    """A ticket's words, and what it is about; every fifth ticket has a second right answer."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            topic = str(rng.choice(list(WORDS)))
            words = [*rng.choice(WORDS[topic], size=2), *rng.choice(FILLER, size=rng.integers(2, 6))]
            row = {"id": f"{seed}-{i}", "document": " ".join(map(str, words)), "summary": f"about {topic} {words[0]}"}
            file.write(json.dumps(row) + "\n")
            if i % 5 == 0:
                file.write(json.dumps({**row, "id": f"{seed}-{i}b", "summary": f"{topic}"}) + "\n")


@pytest.fixture
def letters(tmp_path: Path, one_thread: None) -> Path:
    write_pairs(tmp_path / "letters.jsonl", 120, 1)
    write_pairs(tmp_path / "fresh.jsonl", 30, 2)
    base = tiny_causal(tmp_path / "base", texts=[(tmp_path / "letters.jsonl").read_text("utf-8")])
    (tmp_path / "task.yaml").write_text(
        f"name: letters\nkind: generate\ntrain: letters.jsonl\nmodels: [{base}]\nmetric: chrf\ntruncation: keep_start\n"
        "budget: {work: 2000000}\nmargin: 0.01\n",
        encoding="utf-8",
    )
    return tmp_path


def test_texts_are_written_measured_and_served(letters: Path) -> None:
    methods = "methods=[majority, zero_shot, few_shot, linear_probe]"
    ran = tunewise(letters, "fit", "task.yaml", "--out", "a", "--set", methods)
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((letters / "a" / "verdict.json").read_text("utf-8"))
    assert verdict["kind"] == "generate"
    rungs = {row["method"]: row for row in verdict["rungs"]}
    finished = {name for name, row in rungs.items() if row["status"] == "finished"}
    assert finished == {"majority", "zero_shot", "few_shot"}, ran.stdout
    assert rungs["linear_probe"]["reason"] == "linear_probe answers classify tasks, not generate"
    page = (letters / "a" / "report.html").read_text("utf-8")
    assert "Texts are written here; there are no labels." in page
    answered = tunewise(letters, "predict", "a/bundle", "--input", "fresh.jsonl")
    assert answered.returncode == 0, answered.stderr
    rows = [json.loads(line) for line in answered.stdout.splitlines()]
    assert all(isinstance(row["text"], str) and row["scores"] is None for row in rows)
    scored = tunewise(letters, "evaluate", "a/bundle", "fresh.jsonl", "--metric", "exact_match")
    assert scored.returncode == 0, scored.stderr


def test_the_same_run_twice_says_the_same(letters: Path) -> None:
    for name in "ab":
        ran = tunewise(letters, "fit", "task.yaml", "--out", name, "--set", "methods=[majority, few_shot]")
        assert ran.returncode == 0, ran.stderr
    assert comparable(letters / "a") == comparable(letters / "b")
    compared = tunewise(letters, "compare", "a", "b")
    assert compared.returncode == 0, compared.stderr
    assert "so differences are paired" in compared.stdout


def test_bits_per_byte_need_a_rung_that_gives_texts_a_probability(letters: Path) -> None:
    ran = tunewise(
        letters, "fit", "task.yaml", "--out", "a", "--set", "metric=bits_per_byte", "--set", "methods=[zero_shot]"
    )
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((letters / "a" / "verdict.json").read_text("utf-8"))
    assert verdict["rungs"][0]["held_out"]["score"] > 1.0


def test_what_a_base_reads_of_a_text_to_be_written_can_be_seen(letters: Path) -> None:
    shown = tunewise(letters, "prompt", "show", "task.yaml", "--rung", "few_shot")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("\nAnswer: ") == 5


def test_an_encoder_cannot_write(letters: Path, tiny_base: Path) -> None:
    ran = tunewise(letters, "fit", "task.yaml", "--out", "a", "--set", f"models=[{tiny_base}]")
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((letters / "a" / "verdict.json").read_text("utf-8"))
    reasons = {row["method"]: row["reason"] for row in verdict["rungs"] if row["status"] == "skipped"}
    assert "texts are written by causal and seq2seq bases" in reasons["zero_shot"]
    assert verdict["chosen"]["method"] == "majority"
