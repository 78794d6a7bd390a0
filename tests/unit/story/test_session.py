"""What is expected of a run before it begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.data.load import load_data
from tunewise.errors import RunError
from tunewise.methods.base import Fold
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.runs import Run
from tunewise.search.budget import Clock, Purse
from tunewise.search.calibrate import Speed
from tunewise.search.watch import Quiet
from tunewise.story.session import Session, _cross_fit, _measure_machine, finish_seconds, plan_rows, prepare

ROWS = [{"text": f"the card number {i}", "answer": f"card {i}"} for i in range(40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Any:
    return load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")


def session_of(base: Any, folder: Path, rows: list[dict[str, str]] = ROWS, **task: Any) -> Session:
    """A sitting on texts to be written, as it stands before the climb."""
    asked = Task(
        name="t",
        kind="generate",
        metric="chrf",
        data=DataConfig(train=rows),
        input=("text",),
        target="answer",
        models=("b",),
        dtype="float32",
        budget=Budget(work=10**8),
        truncation="keep_start",
        **task,
    )
    data = load_data(asked)
    return Session(
        task=asked,
        run=Run.create(folder),
        clock=Clock(),
        watcher=Quiet(),
        data=data,
        bases={"b": base},
        stores={"b": FeatureStore(base, "keep_start", (), None)},
        folds=(Fold(train=data.train, race=data.dev),),
        choose=data.dev,
        findings=[],
        tokens={"b": {"train": 400, "race": 100, "lengths": [], "note": "", "too_long": 0}},
        speeds={"forward b": Speed(seconds_per_work=1e-3, memory_bytes=0)},
        purse=Purse(total=10**8, trials=None, rates={}),
    )


def test_a_rungs_own_prompt_is_what_its_work_is_counted_by(base: Any, tmp_path: Path) -> None:
    long = "\nthe card was stolen and the film was never dull, so what is there to say of it today?"
    session = session_of(base, tmp_path / "run", settings={"lora": {"prompt": {"lead": long}}})
    plain, own = session.context("b", "bitfit", 0), session.context("b", "lora", 0)
    rows = len(session.data.train)
    more = len(base.text_ids([long])[0]) - len(base.text_ids(["\nAnswer:"])[0])
    assert own.train_tokens - plain.train_tokens == pytest.approx(more * rows, rel=0.1)
    assert own.answering_tokens > plain.answering_tokens


@pytest.mark.parametrize(("rung", "read"), [("zero_shot", False), ("retrieval", True)])
def test_vectors_are_planned_and_paid_for_where_a_rung_reads_them(
    base: Any, tmp_path: Path, rung: str, read: bool
) -> None:
    session = session_of(base, tmp_path / "run", methods=("majority", rung))
    _measure_machine(session)
    assert session.purse.spent == (500 if read else 0)
    rows = plan_rows(session)
    assert [row.method for row in rows] == [*(["features"] if read else []), "majority", rung]
    if read:
        assert rows[0].seconds == pytest.approx(500 * session.speeds["forward b"].seconds_per_work)


def test_where_rows_are_cross_fitted_the_vectors_of_all_are_planned_and_paid_for(base: Any, tmp_path: Path) -> None:
    session = session_of(base, tmp_path / "run", methods=("majority", "retrieval"))
    _measure_machine(session)
    _cross_fit(session)
    counted = session.tokens["b"]["train"] + session.tokens["b"]["race"]
    assert len(session.folds) == 3
    assert counted not in (0, 500)
    assert session.purse.spent == counted
    assert plan_rows(session)[0].seconds == pytest.approx(counted * session.speeds["forward b"].seconds_per_work)


def test_vectors_that_no_rung_reads_are_read_by_the_report(base: Any, tmp_path: Path) -> None:
    def seconds(tokens: int) -> float:
        session = session_of(base, tmp_path / str(tokens), methods=("majority",))
        session.tokens["b"]["train"] = tokens
        return finish_seconds(session)

    assert seconds(5000) - seconds(400) == pytest.approx(4.6)


def test_a_run_is_not_continued_with_another_tokenizer(tmp_path: Path, one_thread: None) -> None:
    folder = tiny_causal(tmp_path / "base")
    task = Task.from_dict(
        {"train": ROWS, "kind": "generate", "target": "answer", "models": [str(folder)], "methods": ["majority"]}
    )
    data = load_data(task)
    with Run.create(tmp_path / "run") as run:
        prepare(task, data, run, Clock(), Quiet())
        prepare(task, data, run, Clock(), Quiet())
        path = folder / "tokenizer.json"
        plain = json.loads(path.read_text("utf-8"))
        plain["added_tokens"][0]["lstrip"] = True
        path.write_text(json.dumps(plain), "utf-8")
        with pytest.raises(RunError, match=r"the tokenizer of .* changed since this run started"):
            prepare(task, data, run, Clock(), Quiet())
