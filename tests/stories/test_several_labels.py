"""Several labels per text, from rows to a verdict, a report, and a bundle that answers and is scored again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import tunewise

from tunewise.classifier import Classifier
from tunewise.compare import read_run
from tunewise.door import fit, load
from tunewise.errors import ConfigError, DataError, RunError
from tunewise.rescore import rescore

WORDS = {
    "billing": ["invoice", "charge", "payment", "price", "card"],
    "login": ["password", "account", "sign", "locked", "code"],
    "crash": ["error", "screen", "freeze", "app", "bug"],
}
FILLER = ["the", "my", "please", "help", "now", "again", "today", "why"]


def tickets(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows about none to three of the topics."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        topics = [topic for topic, share in zip(WORDS, (0.5, 0.35, 0.2), strict=True) if rng.random() < share]
        words = [*rng.choice(FILLER, size=4), *(word for topic in topics for word in rng.choice(WORDS[topic], size=2))]
        rows.append({"text": f"{' '.join(map(str, rng.permutation(words)))} {i}", "topics": topics})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return {
        "train": str(write(tmp_path / "tickets.jsonl", tickets(200, 1))),
        "target": "topics",
        "models": [str(tiny_base)],
        "truncation": "keep_start",
        "budget": {"work": 400_000},
    }


def test_a_run_over_all_rungs_ends_in_a_verdict_and_a_bundle_that_answers_as_it_was_measured(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    methods = ["majority", "zero_shot", "retrieval", "linear_probe", "contrastive", "lora"]
    run = fit({**settings, "methods": methods}, out=tmp_path / "run")
    rows = {row["method"]: row for row in run.verdict["rungs"]}
    assert run.verdict["several"]
    assert rows["contrastive"]["status"] == "skipped"
    assert "built for one label per text, and here a text may have several" in rows["contrastive"]["reason"]
    done = [name for name in methods if name != "contrastive"]
    assert [rows[name]["status"] for name in done] == ["finished"] * len(done), run.verdict["rungs"]
    assert run.verdict["chosen"]["method"] not in ("majority", "zero_shot")
    chosen = rows[run.verdict["chosen"]["method"]]
    assert chosen["held_out"]["score"] > max(0.4, rows["majority"]["held_out"]["score"])
    assert any("each label is given above a threshold of its own" in note for note in run.verdict["notes"])

    page = run.report.read_text("utf-8")
    assert "How each label fares" in page
    assert len(json.loads((run.folder / "labels.json").read_text("utf-8"))) == 3

    answers = load(run.folder).predict(["my invoice and my password", "please help now"])
    assert all(set(answer.scores or {}) == set(WORDS) and answer.labels is not None for answer in answers)
    fresh = write(tmp_path / "fresh.jsonl", tickets(80, 2))
    found = rescore(run.folder, fresh, metric="subset_accuracy", device="cpu", overrides={})
    again = load(run.folder).predict([row["text"] for row in tickets(80, 2)])
    right = [
        tuple(sorted(row["topics"])) == tuple(sorted(p.labels or ()))
        for row, p in zip(tickets(80, 2), again, strict=True)
    ]
    assert found["score"]["value"] == pytest.approx(np.mean(right))

    done_by_hand = tunewise(tmp_path, "predict", "run", "--input", "fresh.jsonl", "--output", "answers.jsonl")
    assert done_by_hand.returncode == 0, done_by_hand.stderr
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [line["labels"] for line in lines] == [list(p.labels or ()) for p in again]
    refused = tunewise(tmp_path, "predict", "run", "--input", "fresh.jsonl", "--abstain-below", "0.5")
    assert refused.returncode == 2
    assert "this bundle may give several" in refused.stderr

    with pytest.raises(RunError, match="has rows with several labels or none; only runs with one label are compared"):
        read_run(run.folder)
    one_each = write(tmp_path / "one.jsonl", [{"text": "my card", "topics": "billing"}] * 3)
    with pytest.raises(
        DataError, match="the bundle gives a text several labels, or none, and these rows hold one each"
    ):
        rescore(run.folder, one_each, metric=None, device="cpu", overrides={})
    with pytest.raises(
        ConfigError, match=r"accuracy: it measures one label per text, and here a text may have several"
    ):
        rescore(run.folder, fresh, metric="accuracy", device="cpu", overrides={})


@pytest.mark.parametrize("metric", ["micro_f1", "subset_accuracy"])
def test_other_metrics_of_several_labels_choose_too(settings: dict[str, Any], metric: str, tmp_path: Path) -> None:
    settings["train"] = str(write(tmp_path / "many.jsonl", tickets(600, 1)))
    run = fit({**settings, "metric": metric, "methods": ["majority", "linear_probe"]}, out=tmp_path / "run")
    assert run.verdict["chosen"]["method"] == "linear_probe"
    low = run.bundle.predictor.thresholds
    assert low is not None
    assert len(set(low)) == 1
    assert (low[0] == 0.5) == (metric == "subset_accuracy")


def test_joined_labels_and_columns_of_marks_are_learnt_alike(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = tickets(120, 1)
    joined = [{"text": row["text"], "topics": "|".join(row["topics"])} for row in rows if row["topics"]]
    marks = [
        {"text": row["text"], **{topic: int(topic in row["topics"]) for topic in WORDS}}
        for row in rows
        if row["topics"]
    ]
    lists = [row for row in rows if row["topics"]]
    verdicts = []
    for name, (given, target) in {
        "joined": (joined, "topics"),
        "marks": (marks, list(WORDS)),
        "lists": (lists, "topics"),
    }.items():
        changed = {**settings, "train": given, "target": target, "methods": ["linear_probe"]}
        run = fit(changed, out=tmp_path / name)
        verdicts.append(run.verdict["rungs"][0]["held_out"])
        fresh = write(tmp_path / f"{name}.jsonl", given[:40])
        assert rescore(run.folder, fresh, metric=None, device="cpu", overrides={})["score"]["n"] == 40
    assert verdicts[0] == verdicts[1] == verdicts[2]


def test_a_metric_of_one_label_is_refused_before_anything_is_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"accuracy: it measures one label.*Choose one of macro_f1.*subset_accuracy"):
        fit({**settings, "metric": "accuracy"}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_audit_and_plan_read_several_labels(settings: dict[str, Any], tmp_path: Path) -> None:
    base = ("--model", settings["models"][0], "--set", "target=topics", "--set", "truncation=keep_start")
    audited = tunewise(tmp_path, "audit", "tickets.jsonl", *base)
    assert audited.returncode == 0, audited.stderr
    assert "'topics' holds lists: a text may have several labels, or none." in audited.stdout
    assert "3 classes in train; the largest is 'billing'" in audited.stdout
    planned = tunewise(tmp_path, "plan", "tickets.jsonl", *base, "--set", "methods=[contrastive, lora]")
    assert planned.returncode == 0, planned.stderr
    assert "one label per text" in " ".join(planned.stdout.split())


def test_the_scikit_learn_face_refuses_several_labels() -> None:
    with pytest.raises(DataError, match=r"y holds several labels for a text; this class gives one"):
        Classifier().fit(["my card", "the app"], [["billing"], ["crash", "login"]])
