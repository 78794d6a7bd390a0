"""From a CSV file to a verdict, a report and a bundle that predicts, as a new user goes."""

import json
from pathlib import Path

import pytest
from desk import comparable, tunewise

from tunewise.methods import LADDER

ROW_KEYS = {
    "method", "base", "status", "reason", "config", "dev", "held_out", "seconds", "trials", "work", "share_of_budget",
    "under_searched", "peak_memory_bytes", "trainable_parameters", "latency_ms_per_example", "seed_sd", "vs_best",
}  # fmt: skip
KEYS = {
    "version", "task", "kind", "metric", "n", "rungs", "level", "margin", "resolved", "rows_to_resolve", "chosen",
    "held_out_openings", "budget", "seed", "environment",
}  # fmt: skip


def test_a_run_leaves_all_it_promises_and_says_the_same_twice(desk: Path) -> None:
    first = tunewise(desk, "fit", "task.yaml", "--out", "a")
    assert first.returncode == 0, first.stderr
    verdict = json.loads((desk / "a" / "verdict.json").read_text("utf-8"))
    assert verdict.keys() >= KEYS
    assert [row["method"] for row in verdict["rungs"]] == list(LADDER)
    assert all(row.keys() >= ROW_KEYS for row in verdict["rungs"])
    status = {row["method"]: row["status"] for row in verdict["rungs"]}
    assert {name for name, is_ in status.items() if is_ == "finished"} >= {"majority", "linear_probe", "lora", "full"}
    skipped = {row["method"]: row["reason"] for row in verdict["rungs"] if row["status"] == "skipped"}
    assert skipped.keys() == {"few_shot", "cloze"}
    assert skipped["few_shot"] == "few_shot works on bases of the families causal, seq2seq, not masked"
    assert "hold no weights of its head for masked words, and a random one knows nothing" in skipped["cloze"]
    late = [row for row in verdict["rungs"] if row["status"] not in ("finished", "skipped")]
    assert all(row["status"] == "out_of_budget" and "give a larger budget" in row["reason"] for row in late), late
    assert verdict["held_out_openings"] == {"this_run": 1, "all_runs": 1}
    assert verdict["words"] in first.stdout
    for name in ("report.html", "task.yaml", "curves.json", "predictions.parquet", "bundle/manifest.json"):
        assert (desk / "a" / name).is_file(), name
    best = [row for row in verdict["rungs"] if row["vs_best"] and row["vs_best"]["difference"] == 0]
    assert best, "the best rung differs from itself"
    floor = verdict["rungs"][0]["held_out"]["score"]
    chosen = next(row for row in verdict["rungs"] if row["method"] == verdict["chosen"]["method"])
    assert chosen["held_out"]["score"] > floor

    second = tunewise(desk, "fit", "task.yaml", "--out", "b")
    assert second.returncode == 0, second.stderr
    assert comparable(desk / "a") == comparable(desk / "b")
    openings = json.loads((desk / "b" / "verdict.json").read_text("utf-8"))["held_out_openings"]
    assert openings == {"this_run": 1, "all_runs": 2}

    _predict(desk)
    _evaluate(desk)
    _refit(desk)
    _report_without_texts(desk)
    _runs(desk)


def _predict(desk: Path) -> None:
    done = tunewise(desk, "predict", "a/bundle", "--input", "fresh.csv", "--output", "answers.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (desk / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"2-{i}" for i in range(60)]
    assert all(set(row["scores"]) == {"billing", "crash", "login"} and not row["abstained"] for row in rows)
    doubtful = tunewise(desk, "predict", "a", "--input", "fresh.csv", "--abstain-below", "0.999999")
    assert any(json.loads(line)["abstained"] for line in doubtful.stdout.splitlines())


def _evaluate(desk: Path) -> None:
    done = tunewise(desk, "evaluate", "a", "fresh.csv", "--set", "slices=[region]", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["score"]["n"] == 60
    assert found["score"]["low"] <= found["score"]["value"] <= found["score"]["high"]
    assert {part["value"] for part in found["slices"]} == {"EU", "US"}


def _refit(desk: Path) -> None:
    done = tunewise(desk, "fit", "fresh.csv", "--like", "a", "--out", "c")
    assert done.returncode == 0, done.stderr
    old, new = (json.loads((desk / name / "verdict.json").read_text("utf-8")) for name in "ac")
    assert len(new["rungs"]) == 1
    assert new["rungs"][0]["method"] == old["chosen"]["method"]
    assert new["budget"]["spent"]["trials"] == 1
    assert new["metric"] == "accuracy", "settings are those of the run it repeats"


def _report_without_texts(desk: Path) -> None:
    text = (desk / "tickets.csv").read_text("utf-8").splitlines()[1].split(",")[1]
    assert tunewise(desk, "report", "a", "--no-texts").returncode == 0
    assert text not in (desk / "a" / "report.html").read_text("utf-8")


def _runs(desk: Path) -> None:
    listed = tunewise(desk, "runs", "list", "--root", ".")
    assert listed.stdout.count("\n") == 3
    assert tunewise(desk, "runs", "delete", "b", "--yes").returncode == 0
    assert not (desk / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "none.csv"], "none.csv: no such file"),
        (["fit", "task.yaml", "--set", "metrik=accuracy"], "there is no key 'metrik'. Did you mean 'metric'?"),
        (["fit", "task.yaml", "--metric", "acuracy"], "Did you mean 'accuracy'?"),
        (["fit", "task.yaml", "--method", "lara"], "Did you mean 'lora'?"),
        (["fit", "task.yaml", "--model", "no/such-model"], "no/such-model"),
        (["fit", "task.yaml", "--model", "./nowhere"], "nowhere"),
        (["fit", "task.yaml", "--set", "target=intend"], "Did you mean 'intent'?"),
        (["fit", "task.yaml", "--minutes", "-1"], "`minutes` must be a finite number above 0"),
        (["fit", "--resume", "nowhere"], "no run to continue"),
        (["fit", "task.yaml", "--out", "/proc/nowhere"], "cannot be"),
        (["fit", "task.yaml", "--resume", "a"], "--resume continues a run as it was"),
        (["predict", "nowhere", "--input", "fresh.csv"], "nowhere"),
    ],
)
def test_wrong_input_ends_with_a_sentence_and_exit_code_2(desk: Path, arguments: list[str], sentence: str) -> None:
    done = tunewise(desk, *arguments)
    assert sentence in done.stderr + done.stdout
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
