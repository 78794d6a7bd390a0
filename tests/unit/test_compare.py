"""Two runs side by side: paired where rows agree, two samples where they do not, refused where they cannot compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.compare import compare_runs, unpaired
from tunewise.errors import RunError
from tunewise.evaluation.intervals import wilson
from tunewise.evaluation.metrics import METRICS
from tunewise.types import Score

LABELS = ("no", "yes")


def write_run(
    folder: Path,
    answers: dict[str, list[bool]],
    *,
    chosen: str,
    metric: str = "accuracy",
    labels: tuple[str, ...] = LABELS,
    first_row: int = 0,
    clusters: list[str] | None = None,
    **verdict: Any,
) -> Path:
    """A finished run whose rungs are right where `answers` says so."""
    folder.mkdir()
    rows = []
    for method, hits in answers.items():
        for i, hit in enumerate(hits):
            number = first_row + i
            target = labels[number % 2]
            label = target if hit else labels[1 - number % 2]
            row = {"method": method, "base": "b", "split": "held_out", "id": str(number), "text": f"text {number}"}
            row |= {"target": target, "label": label, "confidence": 0.8, "target_probability": 0.8 if hit else 0.2}
            row |= {"chosen": method == chosen, "cluster": clusters[i] if clusters else None}
            rows += [row, {**row, "split": "dev", "label": "no"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    (folder / "data.json").write_text(json.dumps({"labels": [{"label": label} for label in labels]}))
    plain = {
        "task": "t",
        "kind": "classify",
        "metric": metric,
        "signature": METRICS.get(metric).signature,
        "level": 0.95,
        "words": f"{chosen}: well",
        "chosen": {"method": chosen, "base": "b", "why": ""},
        "rungs": [{"method": method, "base": "b", "held_out": {"score": 0.5}} for method in answers],
        "budget": {"spent": {"work": 7}},
    }
    (folder / "verdict.json").write_text(json.dumps({**plain, **verdict}))
    return folder


def hits(right: int, n: int = 100, wrong_first: bool = False) -> list[bool]:
    row = [True] * right + [False] * (n - right)
    return row[::-1] if wrong_first else row


def by_name(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["first"], each["second"]): each for each in found["comparisons"]}


def test_the_same_rows_are_compared_in_pairs(tmp_path):
    one = hits(70)
    other = [True] * 90 + [False] * 10
    a = write_run(tmp_path / "a", {"probe": one, "lora": hits(60)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": other, "lora": hits(60)}, chosen="probe")
    found = compare_runs(a, b)
    assert found["pairing"]["paired"]
    assert found["pairing"]["agree"] == 100
    assert "both answered the same 100 rows of held_out" in found["pairing"]["why"]
    each = by_name(found)
    probe = each["probe on b", "probe on b"]
    assert probe["difference"] == pytest.approx(0.2)
    assert probe["low"] > 0
    # right alone: 20 times the second run, never the first; Holm doubles the smaller of two p-values
    assert probe["p"] == pytest.approx(2 * 0.5**20)
    assert probe["p_adjusted"] == pytest.approx(2 * probe["p"])
    assert probe["chosen"]
    assert probe["finding"] == "the second run is better"
    lora = each["lora on b", "lora on b"]
    assert (lora["difference"], lora["p"], lora["finding"], lora["chosen"]) == (0.0, 1.0, "not told apart", False)


def test_pairs_find_what_two_samples_cannot(tmp_path):
    """Six points apart, and never the other way round."""
    a = write_run(tmp_path / "a", {"probe": hits(70)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": hits(76)}, chosen="probe")
    c = write_run(tmp_path / "c", {"probe": hits(76)}, chosen="probe", first_row=500)
    (same,), (apart,) = (compare_runs(a, run)["comparisons"] for run in (b, c))
    assert same["difference"] == pytest.approx(apart["difference"])
    assert same["finding"] == "the second run is better"
    assert apart["finding"] == "not told apart"


def test_the_rungs_that_were_chosen_are_compared_whatever_they_are(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(70), "lora": hits(80)}, chosen="probe")
    b = write_run(tmp_path / "b", {"lora": hits(60), "full": hits(90)}, chosen="full")
    found = compare_runs(a, b)
    assert [(c["first"], c["second"], c["chosen"]) for c in found["comparisons"]] == [
        ("probe on b", "full on b", True),
        ("lora on b", "lora on b", False),
    ]
    assert found["comparisons"][1]["finding"] == "the first run is better"
    assert "only the first run has probe on b" in found["notes"]
    assert "only the second run has full on b" in found["notes"]
    assert [run["words"] for run in found["runs"]] == ["probe: well", "full: well"]
    json.dumps(found, allow_nan=False)


def test_other_rows_are_compared_as_two_samples(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": hits(90, wrong_first=True)}, chosen="probe", first_row=90)
    found = compare_runs(a, b)
    assert not found["pairing"]["paired"]
    assert found["pairing"]["agree"] == 10
    assert "only 10 rows are in both held_out sets (of 100 and 100)" in found["pairing"]["why"]
    (each,) = found["comparisons"]
    (low_a, high_a), (low_b, high_b) = wilson(50, 100, 0.95), wilson(90, 100, 0.95)
    assert each["low"] == pytest.approx(0.4 - np.hypot(0.9 - low_b, high_a - 0.5))
    assert each["high"] == pytest.approx(0.4 + np.hypot(high_b - 0.9, 0.5 - low_a))
    assert each["finding"] == "the second run is better"


def test_rows_that_agree_in_part_are_compared_on_those_alone(tmp_path):
    first = [True] * 100
    second = [False] * 20 + [True] * 80
    a = write_run(tmp_path / "a", {"probe": first}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": second[::-1]}, chosen="probe", first_row=20)
    found = compare_runs(a, b)
    assert found["pairing"]["paired"]
    assert "80 rows are in both held_out sets (of 100 and 100)" in found["pairing"]["why"]
    (each,) = found["comparisons"]
    assert each["first_score"]["n"] == 80
    assert each["difference"] == 0.0


def test_the_same_id_with_another_text_is_another_row(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": hits(50)}, chosen="probe")
    rows = pq.read_table(b / "predictions.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**row, "text": row["text"] + "!"} for row in rows]), b / "predictions.parquet"
    )
    found = compare_runs(a, b)
    assert found["pairing"]["agree"] == 0
    assert "no row is in both held_out sets" in found["pairing"]["why"]


def test_equal_rows_are_told_apart_by_their_number(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(60)}, chosen="probe")
    rows = pq.read_table(a / "predictions.parquet").to_pylist()
    same = [{**row, "id": "1", "text": "x"} for row in rows]
    pq.write_table(pa.Table.from_pylist(same), a / "predictions.parquet")
    found = compare_runs(a, a)
    assert found["pairing"]["agree"] == 100
    assert found["comparisons"][0]["first_score"]["value"] == pytest.approx(0.6)


def test_rows_that_belong_together_are_resampled_together(tmp_path):
    """Each row ten times is no more evidence than once."""
    many = [hit for hit in hits(7, 10) for _ in range(10)], [hit for hit in hits(9, 10) for _ in range(10)]
    clusters = [f"c{i // 10}" for i in range(100)]
    single = [write_run(tmp_path / name, {"probe": row}, chosen="probe") for name, row in zip("ab", many, strict=True)]
    grouped = [
        write_run(tmp_path / name, {"probe": row}, chosen="probe", clusters=clusters)
        for name, row in zip("cd", many, strict=True)
    ]
    (by_row,), (by_cluster,) = (compare_runs(*runs)["comparisons"] for runs in (single, grouped))
    assert "clusters" in by_cluster["method"]
    assert by_cluster["high"] - by_cluster["low"] > 2 * (by_row["high"] - by_row["low"])


def test_where_lower_is_better_the_lower_one_is(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50)}, chosen="probe", metric="log_loss")
    b = write_run(tmp_path / "b", {"probe": hits(95)}, chosen="probe", metric="log_loss")
    found = compare_runs(a, b)
    (each,) = found["comparisons"]
    assert not found["greater_is_better"]
    # 45 rows go from -ln 0.2 to -ln 0.8
    assert each["difference"] == pytest.approx(-0.45 * np.log(4))
    assert each["finding"] == "the second run is better"


def test_two_samples_agree_with_their_interval(tmp_path):
    def score(value: float, half: float) -> Score:
        return Score(metric="accuracy", value=value, low=value - half, high=value + half, n=100, method="m")

    # symmetric intervals of half-widths 3 and 4 give one of 5; 5 is 1.96 standard errors
    found = unpaired(score(0.5, 0.03), score(0.55, 0.04))
    assert (found.low, found.high) == (pytest.approx(0.0), pytest.approx(0.1))
    assert found.p == pytest.approx(0.05)
    assert unpaired(score(0.5, 0.03), score(0.5, 0.03)).p == 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "macro_f1"}, r"have different metrics: .*a accuracy, .*b macro_f1\. Their scores do not mean"),
        ({"kind": "generate"}, "have different kinds of task"),
        ({"signature": "accuracy|old"}, "have different versions of the metric"),
        ({"labels": ("no", "perhaps")}, "are of different tasks: only one of them has 'perhaps', 'yes'"),
        ({"chosen": None}, r"b has no verdict yet. Continue it with: tunewise fit --resume"),
        ({"level": None}, "is damaged: its files do not fit together"),
    ],
)
def test_runs_that_do_not_compare_are_refused_in_a_sentence(tmp_path, changes, sentence):
    a = write_run(tmp_path / "a", {"probe": hits(50)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": hits(50)}, labels=changes.pop("labels", LABELS), chosen="probe")
    verdict = json.loads((b / "verdict.json").read_text())
    (b / "verdict.json").write_text(json.dumps({**verdict, **changes}))
    with pytest.raises(RunError, match=sentence):
        compare_runs(a, b)


def test_missing_and_damaged_files_are_named(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50)}, chosen="probe")
    with pytest.raises(RunError, match=r"nowhere holds no finished run \(verdict.json is missing\)"):
        compare_runs(a, tmp_path / "nowhere")
    b = write_run(tmp_path / "b", {"probe": hits(50)}, chosen="probe")
    path = b / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"b is damaged: predictions.parquet cannot be read"):
        compare_runs(a, b)
    path.unlink()
    with pytest.raises(RunError, match=r"predictions.parquet is missing"):
        compare_runs(a, b)
    (b / "verdict.json").write_text("{")
    with pytest.raises(RunError, match=r"verdict.json cannot be read"):
        compare_runs(a, b)


def test_rungs_that_answered_different_rows_are_refused(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50), "lora": hits(30, 60)}, chosen="probe")
    with pytest.raises(RunError, match="its rungs answered different rows"):
        compare_runs(a, a)


def test_a_run_compares_with_itself_without_a_difference(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(50), "lora": hits(60)}, chosen="probe")
    for each in compare_runs(a, a)["comparisons"]:
        assert (each["difference"], each["low"], each["high"], each["p_adjusted"]) == (0.0, 0.0, 0.0, 1.0)


def test_what_an_interval_cannot_bear_is_said_of_the_choice(tmp_path):
    a = write_run(tmp_path / "a", {"probe": hits(98), "lora": hits(50)}, chosen="probe")
    b = write_run(tmp_path / "b", {"probe": hits(50), "lora": hits(99)}, chosen="probe")
    found = compare_runs(a, b)
    assert found["notes"] == [
        "what the first run chose: only 2 of 100 answers are wrong, too few for the interval to be exact"
    ]


def write_texts(folder: Path, written: list[str], wanted: list[tuple[str, ...]], **verdict: Any) -> Path:
    """A finished run of texts, which wrote these where those were right; the first of each was the target."""
    folder.mkdir()
    rows = [
        {
            **{"method": "lora", "base": "b", "split": "held_out", "id": str(i), "text": f"text {i}", "cluster": None},
            **{"target": right[0], "label": text, "confidence": None, "target_probability": None, "chosen": True},
            **{"references": list(right[1:]), "target_log_probability": -0.5 * len(text), "target_tokens": 2},
        }
        for i, (text, right) in enumerate(zip(written, wanted, strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    metric = verdict.get("metric", "exact_match")
    plain = {
        "task": "t",
        "kind": "generate",
        "metric": metric,
        "signature": METRICS.get(metric).signature,
        "level": 0.95,
        "words": "lora: well",
        "chosen": {"method": "lora", "base": "b", "why": ""},
        "rungs": [{"method": "lora", "base": "b", "held_out": {"score": 0.5}}],
        "budget": {"spent": {"work": 7}},
    }
    (folder / "verdict.json").write_text(json.dumps({**plain, **verdict}))
    return folder


def test_written_texts_are_compared_with_all_their_right_answers(tmp_path):
    wanted = [("a dog", "one hound"), *[("a cat",)] * 19]
    a = write_texts(tmp_path / "a", ["one hound"] + ["a cat"] * 9 + ["no"] * 10, wanted)
    b = write_texts(tmp_path / "b", ["no"] + ["a cat"] * 19, wanted)
    found = compare_runs(a, b)
    assert found["pairing"]["agree"] == 20
    (each,) = found["comparisons"]
    assert each["first_score"]["value"] == pytest.approx(0.5)
    assert each["second_score"]["value"] == pytest.approx(0.95)
    assert each["finding"] == "the second run is better"


def test_rows_of_other_right_answers_are_other_rows(tmp_path):
    a = write_texts(tmp_path / "a", ["a"] * 20, [("a",)] * 20)
    b = write_texts(tmp_path / "b", ["a"] * 20, [("a", "b")] * 20)
    assert compare_runs(a, b)["pairing"]["agree"] == 0


def test_probabilities_of_texts_are_compared_too(tmp_path):
    a = write_texts(tmp_path / "a", ["aaaa"] * 20, [("abcd",)] * 20, metric="bits_per_byte")
    b = write_texts(tmp_path / "b", ["aa"] * 20, [("abcd",)] * 20, metric="bits_per_byte")
    (each,) = compare_runs(a, b)["comparisons"]
    # 2 nats and 1 nat for four bytes
    assert each["difference"] == pytest.approx(-0.25 / np.log(2))
    assert each["finding"] == "the second run is better"


def test_answers_that_did_not_come_to_their_end_are_told_apart(tmp_path):
    runs = []
    for name, open_ones in (("a", 5), ("b", 15)):
        runs.append(write_texts(tmp_path / name, ["x"] * 20, [("a cat",)] * 20, metric="unparsable"))
        table = pq.read_table(runs[-1] / "predictions.parquet")
        marked = table.append_column("abstained", pa.array([i < open_ones for i in range(20)]))
        pq.write_table(marked, runs[-1] / "predictions.parquet")
    (each,) = compare_runs(*runs)["comparisons"]
    assert [each["first_score"]["value"], each["second_score"]["value"]] == pytest.approx([0.25, 0.75])
