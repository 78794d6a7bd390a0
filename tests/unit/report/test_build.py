"""The page: complete, the same every time, fetching nothing, deaf to what stands in the data, private when asked."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tunewise.errors import RunError
from tunewise.report import build
from tunewise.report.build import build_report, embed
from tunewise.report.record import read_record
from tunewise.report.sections import SECTIONS

Change = Callable[[Path, str, Callable[[Any], Any]], None]


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plotly's 5 MB are looked at in one test; in the others a stand-in keeps parsing fast."""
    monkeypatch.setattr(build, "_plotly", lambda: "var Plotly = {};")


class Outline(HTMLParser):
    """Elements with their attribute names, texts, and the content of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.inside: list[str] = []
        self.raw: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.values += [(tag, name, value or "") for name, value in attrs]
        self.inside.append(tag)

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in ("script", "style"):
            self.raw.append((self.inside[-1], data))
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside.append(f"/{tag}")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def outline(folder: Path, *, texts: bool = True) -> Outline:
    return Outline(build_report(folder, texts=texts).read_text(encoding="utf-8"))


def test_every_section_is_on_the_page_in_order(run_folder: Path) -> None:
    html = build_report(run_folder).read_text()
    assert re.findall(r'<section id="(\w+)"', html) == list(SECTIONS)


def test_every_section_is_named_after_its_file() -> None:
    import importlib

    for name in SECTIONS:
        assert name == importlib.import_module(f"tunewise.report.sections.{name}").NAME


def test_the_verdict_in_words_comes_first(run_folder: Path) -> None:
    text = outline(run_folder).text
    assert "linear_probe: 91.2 % [90.1, 92.3] on 3,080 rows; lora +0.4 [-0.2, +0.9], 38x dearer: not worth it" in text
    assert text.index("not worth it") < text.index("Quality against cost")


def test_the_words_of_the_run_win_over_ours(run_folder: Path, change: Change) -> None:
    change(run_folder, "verdict", lambda verdict: verdict | {"words": "Use what you have."})
    assert "Use what you have." in outline(run_folder).text


def test_a_note_is_said_once(run_folder: Path, change: Change) -> None:
    change(run_folder, "verdict", lambda verdict: verdict | {"notes": ["The delimiter was found to be a comma."]})
    assert outline(run_folder).text.count("The delimiter was found to be a comma.") == 1


def test_rungs_without_a_score_say_why(run_folder: Path) -> None:
    text = outline(run_folder).text
    assert "failed : bitfit: the loss was not finite after step 40; lower `rate`." in text
    assert "out of budget : Its first candidate needs about 6 min; 2 min were left." in text
    assert "Closed early: its optimistic bound" in text
    assert "under-searched" in text


def test_the_table_has_what_the_verdict_has(run_folder: Path) -> None:
    html = build_report(run_folder).read_text()
    row = Outline(html[html.index('row">lora') : html.index('row">full')]).text
    for figure in ("92.2 %", "90.6 to 93.8", "91.6 %", "90.5 to 92.7", "seeds ± 0.3", "the best", "6 min 42 s",
                   "89.6 % of work", "16", "1.3 GB", "151.3k", "6.4 ms"):  # fmt: skip
        assert figure in row


def test_same_folder_same_bytes(run_folder: Path) -> None:
    assert build_report(run_folder).read_bytes() == build_report(run_folder).read_bytes()


def test_the_page_does_not_know_where_it_lies(run_folder: Path) -> None:
    assert str(run_folder.parent) not in build_report(run_folder).read_text()


def test_the_page_fetches_nothing(run_folder: Path) -> None:
    page = outline(run_folder)
    assert not [v for v in page.values if v[1] in ("src", "href", "srcset", "action", "data", "style", "srcdoc")]
    assert not [v for v in page.values if v[1].startswith("on")]
    assert {tag for tag, _ in page.tags} & {"img", "link", "iframe", "object", "embed", "base", "form"} == set()
    assert not re.search(r"url\(|@import", "".join(raw for tag, raw in page.raw if tag == "style"))


def test_only_the_hashed_styles_and_scripts_may_run(run_folder: Path) -> None:
    page = outline(run_folder)
    policy = next(v for _, name, v in page.values if name == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    code = [raw for tag, raw in page.raw if not (tag == "script" and raw.startswith("{"))]
    assert len(code) == 3
    for raw in code:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(raw.encode()).digest()).decode()}'" in policy


def test_plotly_is_inlined_once_and_can_stand_in_a_script(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    source = build._plotly()
    assert "</script" not in source.lower()
    assert "<!--" not in source
    html = build_report(run_folder).read_text(encoding="utf-8")
    assert html.count("plotly.js v") == 1
    assert len(html) < 6_000_000


PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<!-- <script>",
    "-->",
    "]]><script>alert(1)</script>",
    "<style>*{display:none}</style>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}",
    "${alert(1)}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u2028alert(1)\u2029",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt>",
]


def poisoned(value: Any, payload: str, keep: tuple[str, ...]) -> Any:
    """The same JSON with the payload behind every string but those the page decides by."""
    if isinstance(value, str):
        return value + payload
    if isinstance(value, dict):
        return {k: v if k in keep else poisoned(v, payload, keep) for k, v in value.items()}
    return [poisoned(item, payload, keep) for item in value] if isinstance(value, list) else value


DECIDES = ("metric", "status", "on", "severity")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_a_run_becomes_markup(run_folder: Path, payload: str, change: Change) -> None:
    clean = outline(run_folder)
    for name in ("verdict", "data", "curves", "slices", "mistakes"):
        change(run_folder, name, lambda value: poisoned(value, payload, DECIDES))
    path = run_folder / "predictions.parquet"
    table = pq.read_table(path).to_pylist()
    table = [row | {k: row[k] + payload for k in ("method", "base", "id", "text", "target", "label")} for row in table]
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(table), path)
    (run_folder / "task.yaml").write_text(f"name: x{payload}")
    dirty = outline(run_folder)
    same = dirty.tags == clean.tags
    assert same
    assert [tag for tag, _ in dirty.raw] == [tag for tag, _ in clean.raw]
    assert [raw for tag, raw in dirty.raw if not raw.startswith("{")] == [
        r for t, r in clean.raw if not r.startswith("{")
    ]
    assert "\x00" not in (run_folder / "report.html").read_text(encoding="utf-8")
    charts = json.loads(next(raw for _, raw in dirty.raw if raw.startswith("{")))
    markup = set(re.findall(r"<[^>]*>?", json.dumps(charts, ensure_ascii=False)))
    assert markup == {"<b>", "</b>", "<extra>", "</extra>"}


def test_embedded_json_cannot_end_its_script_or_its_line() -> None:
    text = embed({"a": "</script><!--&\u2028", "b": float("nan"), "c": [float("inf"), 1.5]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028", "b": None, "c": [None, 1.5]}


def test_without_texts_no_input_is_on_the_page(run_folder: Path, change: Change) -> None:
    quote = pq.read_table(run_folder / "predictions.parquet").to_pylist()[0]["text"]
    change(run_folder, "data", lambda data: data | {"notes": [f"Row 0 reads {quote}."]})
    rows = pq.read_table(run_folder / "predictions.parquet").to_pylist()
    mistakes = json.loads((run_folder / "mistakes.json").read_text())
    secrets = {row["text"] for row in rows} | {near["text"] for row in mistakes for near in row["neighbours"]}
    shown = build_report(run_folder).read_text()
    assert sum(secret in shown for secret in secrets) > 20
    html = build_report(run_folder, texts=False).read_text()
    assert not [secret for secret in secrets if secret in html]
    assert "Row 0 reads [text withheld]." in html
    assert "bug_report" in html
    assert "Texts are left out of this report." in html


def test_without_texts_no_section_is_even_given_one(run_folder: Path) -> None:
    record = read_record(run_folder, texts=False)
    assert not [
        row for row in [*(record.mistakes or []), *(record.predictions or [])] if {"text", "neighbours"} & set(row)
    ]
    assert len(record.mistakes or []) == 25


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("verdict.json", "This run ended before its verdict; continue it with --resume."),
        ("data.json", "This run ended before its data were summarised."),
        ("curves.json", "This run left no training curves."),
        ("slices.json", "This run ended before its slices were scored."),
        ("mistakes.json", "This run ended before its mistakes were collected."),
        ("predictions.parquet", "There are no predictions of a chosen rung to look at."),
        ("task.yaml", "The task file of this run is missing."),
    ],
)
def test_a_missing_file_is_said_in_its_section(run_folder: Path, name: str, sentence: str) -> None:
    (run_folder / name).unlink()
    assert sentence in outline(run_folder).text


def test_an_empty_folder_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = outline(tmp_path / "empty").text
    assert "unfinished run" in text


def test_a_run_that_ended_early_has_a_page(run_folder: Path, change: Change) -> None:
    gap = {"score": None, "low": None, "high": None}
    rungs: Callable[[Any], Any] = lambda v: [r | {"held_out": gap, "vs_best": None} for r in v["rungs"]]  # noqa: E731
    change(run_folder, "verdict", lambda v: v | {"chosen": None, "rungs": rungs(v)})
    assert "Ended early, nothing is chosen" in outline(run_folder).text


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "\ud800"])
def test_a_damaged_file_is_named(run_folder: Path, content: str) -> None:
    (run_folder / "verdict.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"report: verdict\.json in .* cannot be read \(.*Restore it from a copy"):
        build_report(run_folder)


def test_a_damaged_table_is_named(run_folder: Path) -> None:
    (run_folder / "predictions.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RunError, match=r"report: predictions\.parquet in .* cannot be read"):
        build_report(run_folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a folder\. Name the folder of a run"):
        build_report(tmp_path / "nowhere")


def test_gaps_in_curves_stay_gaps(run_folder: Path, change: Change) -> None:
    change(
        run_folder,
        "curves",
        lambda rows: [row | {"dev_losses": [float("nan")] * 2, "dev_steps": [1, 2]} for row in rows],
    )
    raw = next(raw for _, raw in outline(run_folder).raw if raw.startswith("{"))
    assert "[null,null]" in raw
    assert "NaN" not in raw


def test_many_labels_are_told_as_the_most_confused_pairs(run_folder_77: Path) -> None:
    page = outline(run_folder_77)
    assert re.search(r"showing 15 of \d+ confused pairs", page.text)
    assert "showing 30 of 77 labels, the most frequent first" in page.text
    charts = json.loads(next(raw for _, raw in page.raw if raw.startswith("{")))
    assert len(charts["confusion"]["data"][0]["z"]) == 77
    assert "texttemplate" not in charts["confusion"]["data"][0]


def test_long_lists_say_what_they_leave_out(run_folder: Path) -> None:
    assert "showing 20 of 25 mistakes" in outline(run_folder).text


def test_the_confusion_matrix_counts_only_the_chosen_on_held_out(run_folder: Path) -> None:
    rows = [r for r in pq.read_table(run_folder / "predictions.parquet").to_pylist() if r["split"] == "held_out"]
    right = sum(row["target"] == row["label"] for row in rows)
    assert f"{right} of 300 rows of held_out are right. Each line" in outline(run_folder).text


def test_how_to_reproduce_names_work_seed_and_openings(run_folder: Path) -> None:
    text = outline(run_folder).text
    assert "tunewise fit task.yaml --set budget.work=9000000" in text
    assert "1 in this run, 2 in all runs on these data" in text
    assert "accuracy|n:all" in text
