"""An ordered task, from rows with a scale to a verdict, a report and a bundle that can be scored again."""

import json
from pathlib import Path

import numpy as np
import pytest

from tunewise.door import fit
from tunewise.errors import ConfigError, DataError
from tunewise.rescore import rescore

SCALE = {"terrible": "awful broken", "ok": "fine plain", "great": "lovely superb"}


def reviews(n: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = str(rng.choice(list(SCALE), p=[0.3, 0.4, 0.3]))
        words = [*SCALE[label].split(), *rng.choice(["the", "film", "was", "quite", "really"], size=4)]
        rows.append({"text": f"{' '.join(map(str, rng.permutation(words)))} {i}", "label": label})
    return rows


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return {
        "train": reviews(150, 1),
        "order": ["terrible", "ok", "great"],
        "methods": ["majority", "linear_probe"],
        "models": [str(tiny_base)],
        "truncation": "keep_start",
        "budget": {"work": 400_000},
    }


@pytest.mark.parametrize("metric", ["mae", "quadratic_kappa", "macro_f1"])
def test_every_metric_of_an_ordered_task_is_reported_whichever_chooses(settings, metric: str, tmp_path: Path) -> None:
    run = fit({**settings, "metric": metric}, out=tmp_path / "run")
    rows = {row["method"]: row for row in run.verdict["rungs"]}
    assert run.verdict["chosen"]["method"] == "linear_probe"
    also = rows["linear_probe"]["also"]
    assert list(also) == ["accuracy", "quadratic_kappa", "mae"]
    if metric in also:
        assert also[metric]["score"] == rows["linear_probe"]["held_out"]["score"]
    assert also["mae"]["score"] < rows["majority"]["also"]["mae"]["score"]
    assert rows["majority"]["also"]["quadratic_kappa"]["score"] == 0.0
    page = run.report.read_text("utf-8")
    assert "quadratic_kappa</th>" in page
    assert "mae</th>" in page

    assert run.bundle.predictor.labels == ("terrible", "ok", "great")
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text("".join(json.dumps(row) + "\n" for row in reviews(40, 2)), "utf-8")
    found = rescore(run.folder, fresh, metric="mae", device="cpu", overrides={})
    assert found["score"]["metric"] == "mae"
    assert found["score"]["value"] == {score["metric"]: score["value"] for score in found["also"]}["mae"]


def test_a_distance_without_an_order_is_refused_in_a_sentence(settings, tmp_path: Path) -> None:
    unordered = {key: value for key, value in settings.items() if key != "order"}
    with pytest.raises(DataError, match=r"should have an order, but 'great' is not a whole number"):
        fit({**unordered, "metric": "mae"}, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"mae: it measures how far off an answer is, and these labels have no order"):
        fit({**unordered, "metric": "mae", "ordinal": False}, out=tmp_path / "run")


def test_a_bundle_without_an_order_is_not_scored_by_distance(settings, tmp_path: Path) -> None:
    unordered = {key: value for key, value in settings.items() if key != "order"}
    run = fit({**unordered, "methods": ["majority"]}, out=tmp_path / "run")
    assert all("also" not in row for row in run.verdict["rungs"])
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text("".join(json.dumps(row) + "\n" for row in reviews(40, 2)), "utf-8")
    assert rescore(run.folder, fresh, metric=None, device="cpu", overrides={})["also"] == []
    with pytest.raises(ConfigError, match="these labels have no order"):
        rescore(run.folder, fresh, metric="mae", device="cpu", overrides={})
