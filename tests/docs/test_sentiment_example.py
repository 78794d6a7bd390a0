"""The example of product reviews: its data, its templates, and its README from the audit to an answer."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from pages import ROOT, blocks, run

from tunewise.config import Task
from tunewise.data.audit import CHECKS, audit
from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data, load_data
from tunewise.methods.asking import task_prompt
from tunewise.prompts.prompt import joined
from tunewise.prompts.promptsource import load_templates
from tunewise.prompts.row import Row

FOLDER = ROOT / "examples" / "sentiment"
README = FOLDER / "README.md"


def rows() -> list[dict[str, str]]:
    with (FOLDER / "reviews.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def planted() -> dict:
    return json.loads((FOLDER / "planted.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(Task.from_file(FOLDER / "task.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example in which its README's Python has run."""
    copy = tmp_path_factory.mktemp("example") / "sentiment"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("runs", "mended.csv", "tiny"))
    done = run("-c", "\n".join(blocks(README, "python")), folder=copy)
    assert done.returncode == 0, done.stderr
    return copy


def by_check(found: list[Finding]) -> dict[str, list[Finding]]:
    return {name: [f for f in found if f.check == name and f.severity != "info"] for name in CHECKS}


def ids(found: list[Finding]) -> list[set[str]]:
    return [set(finding.ids) for finding in found]


def test_the_readme_counts_what_is_there() -> None:
    words = {label: count for label, count in Counter(row["sentiment"] for row in rows()).items() if count > 1}
    said = re.search(r"(\d+) reviews of (\d+) .*?(\d+) are positive and (\d+) negative", README.read_text(), re.DOTALL)
    assert said is not None
    products = len({row["product"] for row in rows()})
    assert [int(n) for n in said.groups()] == [len(rows()), products, words["positive"] + 1, words["negative"]]


def test_a_product_has_one_category_and_several_reviews_of_both_kinds() -> None:
    for product in {row["product"] for row in rows()}:
        about = [row for row in rows() if row["product"] == product]
        assert len(about) >= 5
        assert len({row["category"] for row in about}) == 1
        assert {"positive", "negative"} <= {row["sentiment"] for row in about}


def test_stars_agree_with_the_label(planted) -> None:
    for row in rows():
        wanted = {"positive": "45", "negative": "123"}[
            planted["label_typo"]["right"] if row["id"] == planted["label_typo"]["id"] else row["sentiment"]
        ]
        assert row["stars"] in wanted, row


def test_the_audit_finds_what_was_planted_and_nothing_else(data: Data, planted) -> None:
    found = by_check(audit(data, length_of=None, max_tokens=None))
    torn = {row for pair in planted["contradictions"] for row in pair}
    repeated = {row for pair in planted["duplicates"] for row in pair}
    slip = {planted["label_typo"]["id"]}
    assert ids(found.pop("conflicts")) == [torn]
    assert ids(found.pop("duplicates")) == [torn | repeated]
    assert ids(found.pop("label_names")) == [slip]
    assert ids(found.pop("balance")) == [set(), slip, set()]  # uneven by it, few rows of it, none of it in dev
    assert not any(found.values())


def test_once_mended_there_is_nothing_left_to_find(folder: Path) -> None:
    mended = load_data(Task.from_file(folder / "task.yaml", overrides={"data.train": "mended.csv"}))
    assert mended.labels == ("negative", "positive")
    # held_out too, which an audit does not look at
    held_out, _ = mended.held_out.read()
    everything = Data(**{**vars(mended), "train": (*mended.train, *mended.dev, *held_out), "dev": ()})
    found = [finding for name in CHECKS for finding in CHECKS.get(name)(everything, Ruler())]
    unseen = "2 classes have no row in dev and cannot be measured there: 'negative', 'positive'."
    assert [f.sentence for f in found if f.severity != "info"] == [unseen]


def test_each_template_makes_a_pair_of_every_row() -> None:
    asked = [Row(row["id"], row) for row in rows()]
    templates = load_templates(FOLDER / "templates.yaml")
    assert [template.name for template in templates] == ["opinion", "buy_again", "positive_or_negative"]
    for template in templates:
        template.check(("review", "sentiment"))
        for row, pair in zip(rows(), template.render(asked), strict=True):
            assert pair is not None
            assert pair.choices is not None
            assert row["review"].strip() in pair.input
            assert pair.target == pair.choices[row["sentiment"] != "negative"]


@pytest.mark.parametrize("name", [template.name for template in load_templates(FOLDER / "templates.yaml")])
def test_the_task_asks_by_each_template_and_takes_its_answers_for_words(folder: Path, name: str) -> None:
    task = Task.from_file(folder / "promptsource.yaml", overrides={"prompt.name": name})
    data = load_data(task)
    prompt = task_prompt(task, data.labels, data.train)
    answers = {"opinion": ("bad", "good"), "buy_again": ("No", "Yes")}.get(name, data.labels)
    assert prompt.words == dict(zip(("negative", "positive"), answers, strict=True))
    parts = prompt.parts(data.dev)
    assert all(row.fields["review"] in joined(each) for row, each in zip(data.dev, parts, strict=True))


@pytest.mark.parametrize(
    ("base", "asks"), [("tiny-encoder", ["zero_shot", "linear_probe"]), ("tiny-writer", ["zero_shot", "few_shot"])]
)
def test_the_mended_reviews_climb_to_a_verdict_on_both_kinds_of_base(
    folder: Path, base: str, asks: list[str], tiny_base: Path
) -> None:
    path = {"tiny-encoder": tiny_base, "tiny-writer": folder / "tiny"}[base]
    settings = ("data.train=mended.csv", "shots=8", "truncation=keep_start", "budget.work=100000")
    done = run(
        *("-m", "tunewise", "fit", "task.yaml", "--model", str(path), "--out", base),
        *(word for setting in settings for word in ("--set", setting)),
        *(word for method in asks for word in ("--method", method)),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads((folder / base / "verdict.json").read_text("utf-8"))
    assert {row["method"]: row["status"] for row in verdict["rungs"]} == dict.fromkeys(asks, "finished")
    assert (folder / base / "report.html").is_file()
