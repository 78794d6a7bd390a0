"""Conversations in the formats they come in: which turns are read, which are learnt, and what is no conversation."""

import json

import pandas as pd
import pytest

from tunewise.config import DataConfig, Task
from tunewise.data.columns import find_columns
from tunewise.data.load import load_data
from tunewise.data.loaders import load_table
from tunewise.data.rows import Rows, question_rows, to_examples
from tunewise.errors import DataError
from tunewise.types import Example


def read(source, **task) -> Rows:
    table = load_table(source)
    columns = find_columns(table, Task(data=DataConfig(train="x.csv"), kind="generate", **task))
    return to_examples(table, columns, role="train")


def one(row: dict, **task) -> Example:
    (example,) = read([row], **task).examples
    return example


def turns(*said: str) -> list[dict]:
    """Turns written as `user: hello`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in said]


def spoken(example: Example) -> list[str]:
    return [f"{turn.role}{'' if turn.weight else ' (read)'}: {turn.content}" for turn in example.messages]


def test_the_last_turn_of_the_assistant_is_wanted_and_those_before_are_read():
    example = one({"messages": turns("system: be kind", "user: hi", "assistant: hello", "user: bye", "assistant: ok")})
    assert spoken(example) == ["system: be kind", "user: hi", "assistant: hello", "user: bye"]
    assert (example.target, example.fields) == ("ok", {"input": "bye"})


def test_turns_of_weight_0_are_read_only_and_the_last_of_weight_1_is_wanted():
    said = turns("user: a", "assistant: b", "user: c", "assistant: d", "user: e", "assistant: f")
    for at, weight in ((1, 0), (3, 1), (5, 0)):
        said[at]["weight"] = weight
    example = one({"messages": said})
    assert spoken(example) == ["user: a", "assistant (read): b", "user: c"]
    assert (example.target, example.fields["input"]) == ("d", "c")


@pytest.mark.parametrize("column", ["conversations", "messages", "Conversation"])
def test_sharegpt_is_read_under_its_names(column):
    said = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": "look()"},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ]
    example = one({column: said, "system": "be brief", "tools": "[]"})
    assert spoken(example) == ["system: be brief", "user: weather?", "assistant: look()", "tool: rain"]
    assert (example.target, example.fields["input"]) == ("It rains.", "weather?")


def test_parts_of_text_are_one_text_and_a_developer_is_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    example = one({"messages": [*turns("developer: s"), {"role": "user", "content": parts}, *turns("assistant: c")]})
    assert spoken(example) == ["system: s", "user: ab"]


def test_alpaca_is_an_instruction_with_its_input_below():
    plain, full = read(
        [
            {"instruction": "Sing.", "input": "", "output": "La."},
            {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"], ["c", "d"]]},
        ]
    ).examples
    assert (plain.fields, plain.target, spoken(plain)) == ({"input": "Sing."}, "La.", ["user: Sing."])
    assert full.fields == {"input": "Add.\n1 2"}
    assert spoken(full) == ["system: s", "user: a", "assistant: b", "user: c", "assistant: d", "user: Add.\n1 2"]


def test_prompt_and_completion_as_texts_are_a_plain_pair():
    example = one({"prompt": "x", "completion": " y"})
    assert (example.fields, example.target, example.messages) == ({"prompt": "x"}, " y", ())


def test_prompt_and_completion_as_turns_learn_the_completion_only():
    example = one(
        {"prompt": turns("system: s", "user: a", "assistant: b", "user: c"), "completion": turns("assistant: d")}
    )
    assert spoken(example) == ["system: s", "user: a", "assistant (read): b", "user: c"]
    assert example.target == "d"
    mixed = one({"prompt": "a", "completion": turns("assistant: b")})
    assert (spoken(mixed), mixed.target) == (["user: a"], "b")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (turns("user: a", "user: b", "assistant: c"), "with two turns of the user in a row"),
        (turns("user: a", "assistant: b", "assistant: c"), "with two turns of the assistant in a row"),
        (turns("user: a", "assistant:  "), "with an empty turn of the assistant"),
        (turns("user: a", "bot: b"), "with a turn of an unknown role, 'bot'"),
        ([{"content": "a"}], "with a turn without a role"),
        (turns("system: a", "assistant: b"), "without a turn of the user"),
        (turns("assistant: a", "user: b", "assistant: c"), "that start with the assistant"),
        (turns("user: a", "assistant: b", "user: c"), "whose last turn is not the assistant's"),
        (turns("user: a", "system: b", "assistant: c"), "with a system turn after the first turn"),
        (turns("user: a", "tool: b", "assistant: c"), "with a turn of a tool that does not stand between"),
        ([*turns("user: a"), {"role": "assistant", "content": "b", "weight": 2}], "with a weight other than 0 or 1"),
        ([*turns("user: a"), {"role": "assistant", "content": "b", "weight": 0}], "have the weight 0"),
        ([*turns("user: a"), {"role": "assistant", "tool_calls": [{}]}], "that calls tools"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "something other than text"),
        ([], "with an empty 'messages'"),
        (None, "with an empty 'messages'"),
        ({"role": "user"}, "whose 'messages' is no list of turns"),
        (["hello"], "whose 'messages' is no list of turns"),
    ],
)
def test_what_is_no_conversation_is_counted_with_its_reason_and_line(said, reason):
    good = {"messages": turns("user: a", "assistant: b")}
    rows = read([good, {"messages": said}, good])
    assert len(rows.examples) == 2
    (note,) = rows.notes
    assert "3 rows read, 2 used, 1 rejected: 1 " in note
    assert reason in note
    assert note.endswith("(row 2).")


def test_many_reasons_are_shown_in_part_and_none_is_lost():
    rows = [{"messages": turns("user: a", f"role{i}: b")} for i in range(20)]
    (note,) = read([{"messages": turns("user: a", "assistant: b")}, *rows]).notes
    assert "20 rejected" in note
    assert "8 for other reasons." in note


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": " ", "output": "x"}, "with an empty 'instruction'"),
        ({"instruction": "x", "output": ""}, "with an empty 'output'"),
        ({"instruction": "x", "output": "y", "history": [["only one"]]}, "whose history is no list of pairs"),
    ],
)
def test_an_instruction_without_its_parts_is_rejected(row, reason):
    (note,) = read([{"instruction": "a", "output": "b"}, row]).notes
    assert f"1 {reason} (row 2)" in note


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "'chosen' and 'rejected' say which answers are preferred"),
        ({"input": {"messages": []}, "preferred_output": [{}], "non_preferred_output": [{}]}, "'preferred_output' and"),
        ({"prompt": "a", "completion": "b", "label": True}, "'completion' and 'label' say which answers"),
    ],
)
def test_preferences_are_recognised_and_refused(row, said):
    with pytest.raises(DataError, match=rf"{said}.*learning from preferences is not built"):
        read([row])


def test_the_better_answer_can_be_named_as_the_target():
    example = one({"prompt": "a", "chosen": "b", "rejected": "c"}, input=("prompt",), target="chosen")
    assert (example.fields, example.target) == ({"prompt": "a"}, "b")


def test_a_conversation_is_read_alike_from_every_format(tmp_path):
    rows = [{"messages": turns("user: é a", "assistant: b")}, {"messages": turns("user: c", "assistant: d")}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "rows.parquet")
    pd.DataFrame({"messages": [json.dumps(row["messages"]) for row in rows]}).to_csv(tmp_path / "rows.csv", index=False)
    expected = read(rows).examples
    assert [e.target for e in expected] == ["b", "d"]
    for source in (frame, *(str(tmp_path / f"rows.{name}") for name in ("jsonl", "parquet", "csv"))):
        assert read(source).examples == expected


def test_a_named_target_wins_over_the_format():
    row = {"messages": turns("user: a", "assistant: b"), "text": "c d", "title": "e"}
    assert one(row, target="title").fields == {"text": "c d"}
    assert one(row, target="messages").target == "b"
    assert one({"instruction": "a", "input": "b", "output": "c"}, input=("instruction", "input")).fields == {
        "instruction": "a",
        "input": "b",
    }


def test_the_format_is_said_and_conversations_that_end_alike_may_be_apart():
    rows = [{"chat": i, "messages": turns(f"user: {i}", "assistant: x", "user: go on", f"assistant: {i}")} for i in range(60)]  # fmt: skip  # noqa: E501
    data = load_data(Task.from_dict({"train": rows, "kind": "generate"}))
    assert (
        "rows are conversations (detected from 'messages'): what is wanted is the last turn of the assistant, and the "
        "turns before it are read; rows are numbered." in data.notes
    )
    assert (len(data.train), len(data.dev), data.held_out.n) == (38, 10, 12)


def test_equal_conversations_with_different_answers_are_one_row_to_measure():
    rows = [{"messages": turns(f"user: {i % 30}", f"assistant: {i}")} for i in range(60)]
    data = load_data(Task.from_dict({"train": rows, "kind": "generate"}))
    assert all(len(e.references) == 1 for e in (*data.dev, *data.held_out.open()))


def test_a_file_in_another_format_is_an_error_that_names_the_column():
    train = [{"messages": turns(f"user: {i}", f"assistant: {i}")} for i in range(30)]
    data = load_data(Task.from_dict({"train": train, "held_out": [{"prompt": "a", "completion": "b"}], "kind": "generate"}))  # fmt: skip  # noqa: E501
    with pytest.raises(DataError, match=r"there is no column 'messages', which the training data has"):
        data.held_out.open()


def test_a_changed_conversation_changes_the_seal():
    def seal(answer: str) -> str:
        held_out = [{"messages": turns("user: a", f"assistant: {answer}")}]
        train = [{"messages": turns(f"user: {i}", f"assistant: {i}")} for i in range(30)]
        task = Task.from_dict({"train": train, "held_out": held_out, "kind": "generate"})
        return load_data(task).held_out.fingerprint

    assert seal("b") == seal("b")
    assert seal("b") != seal("c")


def asked(rows: list[dict]) -> list[list[str]]:
    """The turns of rows that wait for an answer."""
    return [spoken(example) for example in question_rows(load_table(rows))]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": turns("system: be kind", "user: hi")}, ["system: be kind", "user: hi"]),
        ({"messages": turns("user: hi", "assistant: hello")}, ["user: hi"]),
        ({"messages": turns("user: a", "assistant: b", "user: c")}, ["user: a", "assistant: b", "user: c"]),
        (
            {"conversations": [{"from": "human", "value": "weather?"}], "system": "be brief"},
            ["system: be brief", "user: weather?"],
        ),
        ({"instruction": "Translate", "input": "chat"}, ["user: Translate\nchat"]),
        ({"instruction": "Translate", "context": "chat", "output": "cat"}, ["user: Translate\nchat"]),
        ({"prompt": turns("user: hi")}, ["user: hi"]),
        ({"prompt": turns("user: hi"), "completion": turns("assistant: hello")}, ["user: hi"]),
    ],
)
def test_a_row_that_waits_for_an_answer_is_read_in_every_form_and_never_its_answer(row, expected):
    assert asked([row]) == [expected]


def test_a_question_has_the_id_and_the_last_words_of_the_user():
    (example,) = question_rows(load_table([{"id": "q1", "messages": turns("user: a", "assistant: b", "user: c")}]))
    assert (example.id, example.fields, example.target) == ("q1", {"input": "c"}, None)


def test_rows_with_nothing_to_answer_are_counted_with_their_reason():
    rows = [
        {"messages": turns("user: a")},
        {"messages": turns("assistant: b")},
        {"messages": turns("user: a", "user: b")},
    ]
    with pytest.raises(
        DataError, match=r"3 rows read, 1 used, 2 rejected: 1 without a turn of the user .*, 1 with two turns"
    ):
        asked(rows)
    with pytest.raises(DataError, match="this bundle answers conversations, and there are none here"):
        asked([{"text": "hello"}])
