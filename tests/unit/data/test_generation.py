"""Texts to be written: columns found by name, several right answers kept together, splits that no input crosses."""

import json
import os
from pathlib import Path

import pytest

from tunewise.config import Task
from tunewise.data.load import Data, load_data
from tunewise.data.split import few_rows, k_folds, race_and_choose, split_off, strata_of
from tunewise.errors import ConfigError, DataError
from tunewise.types import Example, Message


def load(train: list[dict], **task) -> Data:
    return load_data(Task.from_dict({"train": train, "kind": "generate", **task}))


def pairs(n: int, source: str = "source", target: str = "target", **more) -> list[dict]:
    return [{source: f"read number {i}", target: f"write number {i}", **more} for i in range(n)]


def everything(data: Data) -> list[Example]:
    return [*data.train, *data.dev, *data.held_out.open()]


@pytest.mark.parametrize(
    ("target", "digest"),
    [
        ("a", "c2142fadba41614e3f354709a1aeca5c5de3bf18e631ec6f979553ffb5174e74"),
        (("a", "b"), "8c813af2616a1a7dbe65c023d28ef0955db44608ca6eae23d087e8fb9fb9b9bc"),
        ((), "d23ab495f861eb3a6cefe9203eea461718f8df38c12ad8b92465fe1046be0dd7"),
        (None, "7dcb4cb37f7ef7b1780b1c4da68822fd2e68af320064f75839de86f4bde1f06c"),
    ],
)
def test_digests_of_examples_without_references_and_turns_are_what_they_were(target, digest):
    example = Example(id="1", fields={"text": "x", "other": "y z"}, target=target, slices={"s": "1"}, cluster="c")
    assert example.digest == digest


def test_references_and_turns_are_part_of_the_digest():
    def digest(**more) -> str:
        return Example(id="1", fields={"text": "x"}, target="a", **more).digest

    hello = Message("user", "hello")
    different = [
        {},
        {"references": ("b",)},
        {"references": ("b", "c")},
        {"references": ("c", "b")},
        {"messages": (hello,)},
        {"messages": (Message("assistant", "hello"),)},
        {"messages": (Message("user", "hello", weight=0),)},
        {"messages": (hello, hello)},
    ]
    assert len({digest(**more) for more in different}) == len(different)


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("layout", ["eight rows", "a list of eight"])
@pytest.mark.parametrize("by", ["size", "half of the others"])
def test_a_sealed_held_out_is_expected_to_have_as_many_inputs_as_will_be_answered(tmp_path, layout, by):
    def rows(n: int, start: int) -> list[dict]:
        texts = [f"read number {i:05}" for i in range(start, start + n)]
        if layout == "a list of eight":
            return [{"source": text, "target": [f"write {text} {k}" for k in range(8)]} for text in texts]
        return [{"source": text, "target": f"write {text} {k}"} for text in texts for k in range(8)]

    train = written(tmp_path / "train.jsonl", rows(60, 0))
    sealed = rows(30, 500)
    held_out = written(tmp_path / "held.jsonl", sealed) if by == "size" else sealed
    data = load_data(Task.from_dict({"data": {"train": train, "held_out": held_out}, "kind": "generate"}))
    assert data.held_out.opened == 0
    assert data.expected_held_out == pytest.approx(30, rel=0.05)
    assert len(data.held_out.open()) == 30


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("source", "target"),
        ("Input", "Output"),
        ("prompt", "completion"),
        ("document", "summary"),
        ("dialogue", "summary"),
        ("question", "answer"),
        ("code", "docstring"),
        ("prompt", "response"),
        ("text", "title"),
        ("abstract", "title"),
        ("meaning representation", "reference"),
        ("mr", "ref"),
    ],
)
def test_what_is_read_and_written_is_recognised_by_name(source, target):
    data = load([{"id": i, "license": "free", **row} for i, row in enumerate(pairs(40, source, target))])
    assert (data.columns.inputs, data.columns.target, data.kind) == ((source,), target, "generate")
    assert data.notes[1] == f"input: {source} (detected); target, to be written: {target} (detected); ids: id."
    assert data.notes[2] == "columns not used: license."
    assert data.labels == ()
    assert all(example.target == f"write {example.fields[source][5:]}" for example in everything(data))


def test_what_the_task_names_is_taken_and_the_rest_is_found():
    rows = pairs(40, "asked", "said", topic="all of it")
    data = load(rows, input="asked", target="said")
    assert "input: asked (as the task says); target, to be written: said (as the task says)" in data.notes[1]
    assert load(rows, target="said").columns.inputs == ("asked",)
    assert load(rows, input="asked").columns.target == "said"
    with pytest.raises(DataError, match=r"several could be meant: asked, said. Name them with `input` and `target`"):
        load(rows)
    with pytest.raises(DataError, match=r"no column 'sayd' for `target`. Did you mean 'said'"):
        load(rows, target="sayd")
    with pytest.raises(DataError, match=r"'said' is named both as `input` and as `target`"):
        load(rows, input="said", target="said")


def test_plain_text_alone_is_not_a_task():
    with pytest.raises(DataError, match=r"'text' is the only column of texts.*training on plain text is not built"):
        load([{"text": f"some text, number {i}"} for i in range(30)])


def test_nothing_is_stratified_and_every_part_has_its_share():
    data = load(pairs(100))
    assert (len(data.train), len(data.dev), data.held_out.n) == (64, 16, 20)
    assert "held_out: 20 of 100 rows split off (20% asked), not stratified; equal texts kept together; seed 0." in (
        data.notes
    )
    assert data.notes[-1] == "train 64 rows, dev 16, held_out 20; texts to be written."


def test_the_order_of_rows_changes_neither_the_split_nor_which_answer_comes_first():
    rows = [{"source": f"read {i % 25}", "target": f"write {i}"} for i in range(100)]
    first, second = load(rows), load(rows[::-1])
    assert {e.digest for e in first.dev} == {e.digest for e in second.dev}
    assert first.held_out.fingerprint == second.held_out.fingerprint


def test_equal_inputs_are_one_row_where_they_are_measured_and_several_where_they_are_learnt_from():
    rows = [{"source": f"read {i % 25}", "target": f"write {i}"} for i in range(100)]
    data = load(rows)
    parts = {"train": data.train, "dev": data.dev, "held_out": data.held_out.open()}
    texts = {name: [e.fields["source"] for e in part] for name, part in parts.items()}
    assert not set(texts["train"]) & {*texts["dev"], *texts["held_out"]}
    assert not set(texts["dev"]) & set(texts["held_out"])
    assert len(texts["train"]) == 4 * len(set(texts["train"]))
    assert all(not e.references for e in data.train)
    for name in ("dev", "held_out"):
        assert len(texts[name]) == len(set(texts[name]))
        assert all(len({e.target, *e.references}) == 4 for e in parts[name])
    assert data.held_out.n == 5
    assert (
        "held_out: 20 rows are 5 inputs, of which 5 have more than one right answer (20 in all); what is written is "
        "measured against all of its input's." in data.notes
    )


def test_rows_that_say_the_same_are_measured_once_and_keep_one_answer():
    data = load(pairs(40), held_out=[{"source": "same", "target": "answer"}] * 3)
    (example,) = data.held_out.open()
    assert (example.target, example.references) == ("answer", ())
    assert "held_out: 3 rows are 1 inputs; rows that say the same count once." in data.held_out.notes


def test_inputs_that_differ_by_case_only_are_different_questions_but_never_apart():
    rows = [*pairs(60), *({"source": f"READ number {i}", "target": "again"} for i in range(60))]
    data = load(rows)
    parts = [{e.fields["source"].casefold() for e in part} for part in (data.train, data.dev, data.held_out.open())]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert len(data.dev) == 2 * len(parts[1])


def test_slices_are_scored_apart_so_their_rows_stay_apart():
    held_out = [{"source": "same", "target": region, "region": region} for region in ("north", "south", "south")]
    data = load(pairs(40, region="north"), held_out=held_out, slices=["region"])
    assert [(e.slices["region"], e.references) for e in data.held_out.open()] == [("north", ()), ("south", ())]


def test_clusters_stay_together():
    rows = [{**row, "talk": i // 4} for i, row in enumerate(pairs(120))]
    data = load(rows, cluster="talk")
    clusters = [{e.cluster for e in part} for part in (data.train, data.dev, data.held_out.open())]
    assert not clusters[0] & clusters[1] | clusters[0] & clusters[2] | clusters[1] & clusters[2]


def test_several_columns_of_answers_are_rows_to_learn_from_and_references_to_measure_against():
    rows = [
        {"document": f"read {i}", "summary1": f"one {i}", "summary2": f"two {i}", "summary3": None} for i in range(50)
    ]
    for more in ({}, {"target": ["summary1", "summary2", "summary3"]}, {"target": ["summary1", "summary3"]}):
        data = load(rows, **more)
        answers = 1 if len(more.get("target", "123")) == 2 else 2
        assert data.columns.inputs == ("document",)
        assert (len(data.train), len(data.dev), data.held_out.n) == (32 * answers, 8, 10)
        assert all(len(e.references) == answers - 1 for e in (*data.dev, *data.held_out.open()))
        assert len({e.id for e in data.train}) == len(data.train)
    assert "train: 32 rows have 64 right answers, and each is a row of its own." in load(rows).notes


def test_a_file_with_numbered_answers_goes_with_a_file_that_has_one(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"dialogue": "read", "summary_1": "b", "summary_2": "a", "summary_3": "b"}) + "\n")
    (example,) = load(pairs(40, "dialogue", "summary"), held_out=str(path)).held_out.open()
    assert (example.target, example.references) == ("b", ("a",))


def test_lists_of_texts_are_answers_and_their_lines_are_read():
    rows = [{"triples": [f"a | b | {i}", "c | d | e"], "texts": [f"one {i}", f"two {i}"]} for i in range(50)]
    data = load(rows)
    assert data.dev[0].fields["triples"].endswith("\nc | d | e")
    assert all(e.target.startswith("one") and e.references[0].startswith("two") for e in data.dev)
    assert "'triples' holds lists; a row's texts are joined by line breaks." in data.notes
    assert "'texts' holds lists; each text is a right answer." in data.notes
    with pytest.raises(DataError, match=r"the column 'texts' cannot be used: row 1 holds a list. .* a list of texts"):
        load([{"triples": "a", "texts": [["x"]]}] * 30)


def test_rows_without_an_answer_are_counted_with_their_lines():
    rows = [*pairs(50), {"source": "no answer", "target": " "}, {"source": "", "target": "x"}, {"source": "none"}]
    assert (
        "the list given as train: 53 rows read, 50 used, 3 rejected: 2 with an empty 'target' (rows 51, 53), "
        "1 with an empty 'source' (row 52)." in load(rows).notes
    )
    with pytest.raises(DataError, match=r"all 30 training rows have the target 'same'"):
        load([{"source": f"read {i}", "target": "same"} for i in range(30)])


def test_answers_come_through_as_they_are_written():
    rows = [*pairs(40), {"source": "spaces", "target": "  def f():\n    return 1\n"}]
    assert "  def f():\n    return 1\n" in {e.target for e in everything(load(rows))}


def test_shots_are_rows_in_all():
    data = load(pairs(100), shots=20)
    assert (len(data.train), len(data.dev)) == (16, 4)
    assert "shots: 20 of 80 rows in all, draw 0." in data.notes
    assert {e.id for e in data.train} != {e.id for e in load(pairs(100), shots=20, draw=1).train}
    rows = [Example(id=str(i), fields={"t": f"text {i}"}, target=str(i)) for i in range(30)]
    assert few_rows(rows[::-1], 7, draw=0) == few_rows(rows, 7, draw=0)[::-1]


@pytest.mark.parametrize(
    "option", [{"labels": {"a": "b"}}, {"ordinal": True}, {"order": ["a", "b"]}, {"label_separator": ""}]
)
def test_what_is_about_labels_is_refused(option):
    (name,) = option
    with pytest.raises(ConfigError, match=rf"`{name}` is about labels, and with `kind: generate` there are none"):
        Task.from_dict({"train": "x.csv", "kind": "generate", **option})


def test_few_different_targets_are_pointed_out():
    data = load([{"source": f"read {i}", "target": "ab"[i % 2]} for i in range(100)])
    said = "the targets of 64 train rows are 2 different texts; `kind: classify` would choose among them."
    assert said in data.notes
    assert not any("would choose" in note for note in load(pairs(100)).notes)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "why {}", "answer": "so {}"}, r"If 'answer' is to be written from 'question', set `kind: gen"),
        ({"instruction": "do {}", "output": "it {}"}, r"If 'output' is to be written from 'instruction', set `kind: g"),
        ({"triples": ["a {}"], "texts": ["b {}"]}, r"If 'texts' is to be written from 'triples', set `kind: generate`"),
        ({"messages": [{"role": "user", "content": "{}"}]}, r"'messages' holds conversations: .* set `kind: generate`"),
        ({"text": "a b {}", "target": "c d {}"}, r"looks like free texts .* To have such texts written, set `kind: ge"),
    ],
)
def test_a_task_of_labels_without_any_is_offered_the_other_kind(row, said):
    rows = [json.loads(json.dumps(row).replace("{}", str(i))) for i in range(30)]
    with pytest.raises(DataError, match=said):
        load_data(Task.from_dict({"train": rows}))


def test_folds_and_halves_of_texts_to_be_written_have_their_share():
    rows = [Example(id=str(i), fields={"t": f"text {i}"}, target=f"answer {i}") for i in range(90)]
    strata = strata_of("generate")
    assert [len(part) for part in k_folds(rows, 3, seed=0, strata=strata)] == [30, 30, 30]
    assert [len(part) for part in race_and_choose(rows, minimum=50, strata=strata)] == [45, 45]
    # with every target a class of its own nothing could be taken out of train
    assert not split_off(rows, 0.2, seed=0, name="dev")[1]


SHARED = Path(os.environ.get("TUNEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("train", "held_out", "inputs", "target", "parts", "answers"),
    [
        ("e2e_nlg/train", "e2e_nlg/dev", "mr", "ref", (2992, 92, 109), 890),
        ("nl2bash/train", "nl2bash/test", "nl", "cmd", (9095, 2060, 1220), 1238),
        ("dialogsum/dev", "dialogsum/test", "dialogue", "summary", (400, 100, 500), 1490),
        ("gsm8k/train", "gsm8k/test", "question", "answer", (5978, 1495, 1319), 1319),
        ("pep_abstracts/train", "pep_abstracts/test", "abstract", "title", (430, 108, 123), 123),
        ("conala/train", None, "intent", "snippet", (1521, 285, 338), 469),
        ("webnlg2017/train", "webnlg2017/dev", "triples", "texts", (14459, 1378, 871), 2268),
        ("alpaca_demo/train", None, "input", "output", (639, 158, 195), 195),
    ],
)
def test_real_sets_load_from_their_paths_alone(train, held_out, inputs, target, parts, answers):
    paths = {"train": SHARED / f"{train}.jsonl", "held_out": SHARED / f"{held_out}.jsonl" if held_out else None}
    data = load_data(Task.from_dict({"data": {k: str(p) for k, p in paths.items() if p}, "kind": "generate"}))
    opened = data.held_out.open()
    assert (data.columns.inputs, data.columns.target) == ((inputs,), target)
    assert (len(data.train), len(data.dev), len(opened)) == parts
    assert sum(1 + len(example.references) for example in opened) == answers
