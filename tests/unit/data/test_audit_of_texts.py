"""The checks on texts to be written: what is about labels is silent, and answers are looked at too."""

from tunewise.config import Task
from tunewise.data.audit import audit
from tunewise.data.audit.finding import Finding
from tunewise.data.load import Data, load_data
from tunewise.types import Example

QUESTION = "I would like to know where the parcel number {} is at the moment"


def load(rows: list[dict], dev: list[dict] | None = None) -> Data:
    parts = {"train": rows, "dev": dev or [{"question": QUESTION.format(i), "answer": f"at {i}"} for i in (900, 901)]}
    return load_data(Task.from_dict({**parts, "kind": "generate", "held_out": [{"question": "x", "answer": "y"}]}))


def findings(check: str, rows: list[dict], dev: list[dict] | None = None) -> list[Finding]:
    return [f for f in audit(load(rows, dev), length_of=None, max_tokens=None) if f.check == check]


CLEAN = [{"question": QUESTION.format(i), "answer": f"in street {i}"} for i in range(40)]


def test_clean_rows_give_no_warning_and_nothing_about_classes():
    found = audit(load(CLEAN), length_of=None, max_tokens=None)
    assert {f.severity for f in found} == {"info"}
    assert {f.check for f in found} == {"lengths", "languages"}


def test_several_answers_to_one_input_are_neither_a_conflict_nor_a_repeat():
    rows = [*CLEAN, {"question": QUESTION.format(3), "answer": "at home"}]
    assert findings("conflicts", rows) == findings("duplicates", rows) == []


def test_the_same_answer_to_the_same_input_is_a_repeat():
    rows = [*CLEAN, {"question": QUESTION.format(3).upper(), "answer": "In  street 3"}]
    (found,) = findings("duplicates", rows)
    assert (found.count, found.ids) == (1, ("41",))
    assert "1 of 41 train rows repeat the input and the target of an earlier one" in found.sentence


def test_an_input_of_dev_that_is_in_train_is_a_leak_whatever_its_answer():
    (found,) = findings("duplicates", CLEAN, [{"question": QUESTION.format(3), "answer": "new"}])
    assert (found.severity, found.count) == ("problem", 1)


def test_the_last_turn_alone_is_no_leak():
    def chat(first: str, answer: str) -> dict:
        said = (("user", first), ("assistant", "yes"), ("user", "go on"), ("assistant", answer))
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    task = {"train": [chat(f"{i}", f"a{i}") for i in range(30)], "dev": [chat("new", "b"), chat("7", "c")]}
    data = load_data(Task.from_dict({**task, "held_out": [chat("x", "y")], "kind": "generate"}))
    (found,) = [f for f in audit(data, length_of=None, max_tokens=None) if f.check == "duplicates"]
    assert found.ids == ("dev:2",)


def test_targets_that_copy_their_input_are_counted():
    rows = [*CLEAN, {"question": "Same  here", "answer": "same here"}]
    (found,) = findings("duplicates", rows)
    assert (found.count, found.ids) == (1, ("41",))
    assert "1 of 43 rows want their input back as it is" in found.sentence


def test_one_answer_to_many_inputs_is_named():
    rows = [*CLEAN, *({"question": f"what about {i}", "answer": "I do not know."} for i in range(5))]
    (found,) = findings("balance", rows)
    assert found.sentence == "5 of 45 inputs of train have the same target, 'I do not know.'."
    assert found.ids == ("41", "42", "43", "44", "45")
    assert findings("balance", rows[:-1]) == []


def test_lengths_of_answers_are_given_and_all_turns_before_them_are_read():
    spread, answers = findings("lengths", CLEAN)
    assert spread.sentence == "rows have 14 words at the median, 14 at most."
    assert answers.sentence == "targets have 3 words at the median, 3 at most."
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    rows = [{"messages": [*turns, *turns[:1], {"role": "assistant", "content": f"{i} x"}]} for i in range(4)]
    task = {"train": rows, "dev": rows[:1], "held_out": rows[:1], "kind": "generate"}
    spread, answers = [
        f for f in audit(load_data(Task.from_dict(task)), length_of=None, max_tokens=None) if f.check == "lengths"
    ]
    assert (spread.sentence, answers.sentence[:14]) == ("rows have 5 words at the median, 5 at most.", "targets have 2")


def test_odd_characters_in_an_answer_are_found():
    odd = Example(id="x", fields={"question": "a"}, target="b", references=("caf\ufffd",))
    data = load(CLEAN)
    found = audit(Data(**{**vars(data), "dev": (odd,)}), length_of=None, max_tokens=None)
    assert [f.ids for f in found if f.check == "characters"] == [("x",)]


def test_rows_that_fit_only_without_their_target_are_counted_where_both_share_a_window():
    # words serve as tokens: questions of 13, answers of 3, and one of each kind of too long
    rows = [*CLEAN, {"question": "why " * 30, "answer": "so"}, {"question": "how come", "answer": "because " * 18}]
    data = load(rows)

    def count(texts):
        return [sum(len(text.split()) for text in row) for row in texts]

    apart = audit(data, length_of=count, max_tokens=19)
    alone, together = [f for f in audit(data, length_of=count, max_tokens=19, answers_too=True) if f.count == 1]
    assert [f.ids for f in (alone, together)] == [("41",), ("42",)]
    assert "1 of 44 rows (2.3%) are longer than the 19 tokens the base reads" in alone.sentence
    assert "are longer than 19 tokens only together with their target" in together.sentence
    assert [f.ids for f in apart if f.severity == "warning"] == [("41",)]
