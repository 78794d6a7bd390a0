"""Members that answer in parts: the same answers however they are cut, each row asked once, none lost at a stop."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from tunewise.methods.answering import AnsweringBracket, parts_of
from tunewise.types import Example, Prediction, to_plain

ROWS = tuple(Example(id=str(i), fields={"text": f"row {i}"}, target="a") for i in range(10))


class Counted:
    """Says the text of a row, and remembers what it was asked."""

    def __init__(self, member: int) -> None:
        self.member, self.asked = member, []

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        self.asked += [example.id for example in examples]
        share = (self.member + 1) / 10
        known = -np.inf if self.member == 2 else -1 / 3
        scores = {"a": share, "b": 1 - share}
        return [Prediction(text="a", scores=scores, evidence=(e.id,), target_log_probability=known) for e in examples]


def bracket_of(members: int, parts: int) -> tuple[AnsweringBracket, list[Counted]]:
    said = [Counted(member) for member in range(members)]
    context = SimpleNamespace(fold=SimpleNamespace(race=ROWS))
    return AnsweringBracket(context, lambda member: (said[member], 7), members, parts=parts), said


def test_every_row_is_asked_once_and_in_order():
    bracket, said = bracket_of(2, 4)
    work = [bracket.advance(part + 1) for part in range(4)]
    assert bracket.fidelity == bracket.horizon == 4
    assert sum(work) == 2 * 7
    first, second = bracket.predictions()
    assert [answer.evidence for answer in first] == [(row.id,) for row in ROWS]
    assert second[0].scores == {"a": 0.2, "b": 0.8}
    assert bracket.predictions((9, 0))[0] == [first[9], first[0]]
    assert said[0].asked == said[1].asked == [row.id for row in ROWS]


def test_what_was_answered_before_a_stop_is_not_asked_again():
    whole, _ = bracket_of(3, 4)
    whole.advance(4)
    left, _ = bracket_of(3, 4)
    left.advance(2)
    left.keep([2, 0])
    _, meta = left.state()
    again, said = bracket_of(3, 4)
    again.restore({}, json.loads(json.dumps(meta, allow_nan=False)))
    assert (again.size, again.fidelity) == (2, 2)
    assert again.advance(4) == 2 * (7 - 3)
    assert said[0].asked == said[2].asked == [row.id for row in ROWS[5:]]
    assert said[1].asked == []
    assert [to_plain(row) for row in again.predictions()] == [to_plain(whole.predictions()[i]) for i in (2, 0)]


def test_one_member_may_go_ahead():
    bracket, said = bracket_of(2, 2)
    bracket.advance(2, [1])
    assert bracket.fidelity == 0
    assert (len(said[0].asked), len(said[1].asked)) == (0, 10)


@pytest.mark.parametrize(
    ("rows", "tokens", "shared", "parts"),
    [
        (300, 10_000, 400, 7),  # six more times 400 tokens are 24 %
        (300, 10_000, 5_000, 1),
        (300, 10_000, 0, 8),
        (3, 100, 0, 3),
    ],
)
def test_parts_cost_a_quarter_more_at_most(rows, tokens, shared, parts):
    assert parts_of(rows, tokens, shared) == parts
    assert (parts_of(rows, tokens, shared) - 1) * shared <= 0.25 * tokens
