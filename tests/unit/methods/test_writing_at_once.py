"""Members write in one pass where that was no slower on the first rows, and what they write does not depend on it."""

from collections.abc import Sequence
from typing import Any

import pytest

from tunewise.adapters.stack import NotStackable
from tunewise.methods import writing_at_once
from tunewise.methods.writing_at_once import WritingAtOnce
from tunewise.models.generate import Written
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.types import Example, Prediction

ROWS = [Example(id=str(i), fields={"text": f"t{i}"}) for i in range(7)]


class Clock:
    """Stands still but while something is written."""

    now = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_at_once, "perf_counter", lambda: Clock.now)


class FakeWriter:
    """Says its own name and the row's."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self.writer = self
        self.asked: list[int] = []

    def write(self, examples: Sequence[Example], writer: Any) -> list[Written]:
        if writer is not self:
            return writer(examples)
        self.asked.append(len(examples))
        Clock.now += self.seconds
        return [Written((), f"{self.name}{example.id}", 0.0, True) for example in examples]

    def telling(self, examples: Sequence[Example], answers: Sequence[Written]) -> list[Prediction]:
        assert len(examples) == len(answers)
        return [Prediction(text=answer.text) for answer in answers]


class Stacked:
    """In the place of one pass of several members."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, error: Exception | None = None) -> None:
        self.made, self.asked, self.seconds, self.error = 0, list[int](), seconds, error
        monkeypatch.setattr(AdaptedWriter, "at_once", self.at_once)

    def at_once(self, writers: Sequence[FakeWriter]) -> Any:
        self.made += 1

        def write(examples: Sequence[Example]) -> list[Written]:
            if self.error is not None:
                raise self.error
            self.asked.append(len(examples))
            Clock.now += self.seconds
            return [Written((), f"{w.name}{example.id}", 0.0, True) for w in writers for example in examples]

        return write


def said(how: WritingAtOnce, writers: Sequence[Any], rows: Sequence[Example] = ROWS) -> list[list[str]]:
    return [[prediction.text for prediction in own] for own in how.predictions(writers, rows)]


EXPECTED = [[f"{name}{row.id}" for row in ROWS] for name in "abc"]


@pytest.mark.parametrize(("stacked", "alone"), [(0.3, 0.1), (0.5, 0.1)])
def test_the_first_rows_are_written_either_way_and_the_others_in_the_faster(
    stacked: float, alone: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Stacked(monkeypatch, stacked)
    writers, how = [FakeWriter(name, alone) for name in "abc"], WritingAtOnce("lora")
    assert said(how, writers) == EXPECTED
    assert (together.asked, writers[0].asked) == ([4], [3]), "half of them either way, none twice"
    assert said(how, writers) == EXPECTED
    faster = stacked == 0.3  # for four rows, where three of three members take 0.3 alone
    assert how.faster == {3: faster}
    assert (together.asked, writers[0].asked) == (([4, 7], [3]) if faster else ([4], [3, 7]))
    assert together.made == 1
    way = "in one pass" if faster else "one member after another"
    (note,) = how.notes
    assert note == (
        f"lora: texts are written {way}: a row of 3 members takes {stacked / 4 * 1e3:.0f} ms stacked, 100 ms one by one"
    )


def test_fewer_members_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Stacked(monkeypatch, 0.0)
    writers, how = [FakeWriter(name, 0.02) for name in "abc"], WritingAtOnce("lora")
    said(how, writers)
    assert said(how, writers[1:]) == EXPECTED[1:]
    assert how.faster == {3: True, 2: True}
    assert together.made == 2


def test_one_member_and_one_row_say_nothing_of_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Stacked(monkeypatch, 0.0)
    writers, how = [FakeWriter(name, 0.0) for name in "abc"], WritingAtOnce("lora")
    assert said(how, writers[:1]) == EXPECTED[:1]
    assert said(how, writers, ROWS[:1]) == [row[:1] for row in EXPECTED]
    assert said(how, writers, []) == [[], [], []]
    assert (how.faster, how.notes, together.made) == ({}, [], 0)


def test_a_base_that_cannot_be_stacked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Stacked(monkeypatch, 0.0, NotStackable("layer 'x' is called with 15 rows"))
    writers, how = [FakeWriter(name, 0.0) for name in "abc"], WritingAtOnce("lora")
    assert said(how, writers) == EXPECTED
    assert how.faster == {3: False}
    assert how.notes == ["lora: texts are written one member after another: layer 'x' is called with 15 rows"]


def test_a_resumed_run_writes_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Stacked(monkeypatch, 0.2)
    writers, how = [FakeWriter(name, 0.0) for name in "abc"], WritingAtOnce("lora")
    how.restore({"faster": [[3, True]]})
    assert how.state() == {"faster": [[3, True]]}
    assert said(how, writers) == EXPECTED
    assert together.asked == [7]
