"""Rows that are conversations: how their turns stand in a row, and what each row says, or why it cannot be used."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.data.roles import Layout, plain_name
from tunewise.data.table import Table
from tunewise.errors import DataError
from tunewise.types import Message, Role

TURNS = ("messages", "conversations", "conversation")
ANSWERS = ("output", "response")
CONTEXTS = ("input", "context")
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function"), "tool"),
}
PREFERENCES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
UNSAID = "..."
"""Stands for an answer where a row is only asked about."""
Turns = tuple[Message, ...]


class _UnusableError(ValueError):
    """Why a row is no conversation that can be learnt from, in words that complete `2 rows ...`."""


def find_layout(table: Table, target: str | None) -> Layout | None:
    """How the rows hold conversations, or None where they hold none; a target that is named must be part of it."""
    names = {plain_name(name): name for name in table.names}
    turns = next((names[name] for name in TURNS if name in names and _may_hold_turns(table, names[name])), None)
    answer = next((names[name] for name in ANSWERS if name in names), None)
    system = {"system": names["system"]} if "system" in names else {}
    if turns is not None:
        layout = Layout(kind="turns", columns={"turns": turns, **system})
    elif "instruction" in names and answer is not None:
        context = next((names[name] for name in CONTEXTS if name in names), None)
        parts = {"instruction": names["instruction"], "input": context, "output": answer, **system}
        parts["history"] = names.get("history")
        layout = Layout(kind="instruction", columns={part: name for part, name in parts.items() if name is not None})
    elif {"prompt", "completion"} <= names.keys() and any(
        names[name] in table.nested for name in ("prompt", "completion")
    ):
        layout = Layout(kind="prompt", columns={part: names[part] for part in ("prompt", "completion")})
    else:
        return None
    return layout if target in (None, answer_column(layout)) else None


def find_questions(table: Table) -> Layout | None:
    """How the rows hold conversations that wait for an answer, or None where they hold none; answers may be there."""
    names = {plain_name(name): name for name in table.names}
    if (whole := find_layout(table, None)) is not None:
        return whole
    if "instruction" in names:
        context = next((names[name] for name in CONTEXTS if name in names), None)
        parts = {"instruction": names["instruction"], "input": context}
        parts |= {part: names.get(part) for part in ("system", "history")}
        return Layout(kind="instruction", columns={part: name for part, name in parts.items() if name is not None})
    if "prompt" in names and names["prompt"] in table.nested:
        return Layout(kind="prompt", columns={"prompt": names["prompt"]})
    return None


def answer_column(layout: Layout) -> str:
    """The column that the answer stands in."""
    return layout.columns[{"turns": "turns", "instruction": "output", "prompt": "completion"}[layout.kind]]


def describe(layout: Layout) -> str:
    """The sentence that says what was recognised."""
    shown = ", ".join(f"'{name}'" for name in layout.columns.values())
    what = {"turns": "conversations", "instruction": "instructions and their answers", "prompt": "conversations"}
    return (
        f"rows are {what[layout.kind]} (detected from {shown}): what is wanted is the last turn of the assistant, and "
        "the turns before it are read."
    )


def refuse_preferences(table: Table) -> None:
    """Nothing, where a row has one right answer.

    Raises:
        DataError: it has a better and a worse one, or one that is marked as good or bad.
    """
    names = {plain_name(name): name for name in table.names}
    pair = next((pair for pair in PREFERENCES if names.keys() >= set(pair)), None)
    marks = {(value or "").strip().casefold() for value in table.columns.get(names.get("label", ""), ())} - {""}
    marked = {"prompt", "completion"} <= names.keys() and bool(marks) and marks <= {"true", "false"}
    if pair is None and not marked:
        return
    found = pair or ("completion", "label")
    shown = " and ".join(f"'{names[name]}'" for name in found)
    raise DataError(
        f"{table.source}: {shown} say which answers are preferred, and learning from preferences is not built. Give "
        "rows with the right answer only, for example as 'prompt' and 'completion', or name its column with `target`."
    )


def read_turns(table: Table, layout: Layout, row: int) -> tuple[Turns, str] | str:
    """The turns before the answer and the answer; or why the row cannot be used, in words that follow `2 rows`."""
    values = {part: _value(table, name, row) for part, name in layout.columns.items()}
    read = {"turns": _listed, "instruction": _instruction, "prompt": _prompt}[layout.kind]
    try:
        turns = read(layout, values)
        _check(turns)
        return _answered(turns)
    except _UnusableError as error:
        return str(error)


def read_question(table: Table, layout: Layout, row: int) -> Turns | str:
    """The turns to be answered, without an answer that stands there already; or why there is nothing to answer."""
    values = {part: _value(table, name, row) for part, name in layout.columns.items()}
    try:
        if layout.kind == "turns":
            turns = _listed(layout, values)
            turns = turns[:-1] if turns[-1].role == "assistant" else turns
        else:
            read = {"instruction": _instruction, "prompt": _prompt}[layout.kind]
            turns = read(layout, {**values, "output": UNSAID, "completion": UNSAID})[:-1]
        if not turns:
            raise _UnusableError("without a turn of the user")
        _check((*turns, Message("assistant", UNSAID)))
    except _UnusableError as error:
        return str(error)
    return turns


def question_of(value: Any) -> Turns | str:
    """The turns to be answered, from a list or JSON; or what is wrong, in words that follow `conversations`."""
    try:
        turns = _turns(value, "messages")
        _check((*turns, Message("assistant", UNSAID)))
    except _UnusableError as error:
        return str(error)
    return turns


def _may_hold_turns(table: Table, name: str) -> bool:
    """Lists of objects; or, as in a CSV file, texts that hold JSON lists."""
    if name in table.nested:
        return name not in table.lists
    values = [value.strip() for value in table.columns.get(name, ()) if value and value.strip()]
    return bool(values) and sum(value.startswith("[") for value in values) > len(values) / 2


def _value(table: Table, name: str, row: int) -> Any:
    """A list or object where the column has such, else a text; None where it is missing or empty."""
    if name in table.nested:
        text = table.nested[name][row]
        return None if text is None else json.loads(text)
    plain = table.columns[name][row] if name in table.columns else None
    return plain if plain and plain.strip() else None


def _listed(layout: Layout, values: Mapping[str, Any]) -> Turns:
    turns = _turns(values["turns"], layout.columns["turns"])
    system = values.get("system")
    if system and turns[0].role != "system":
        return (Message("system", _text(system)), *turns)
    return turns


def _instruction(layout: Layout, values: Mapping[str, Any]) -> Turns:
    asked = "\n".join(_text(values[part]) for part in ("instruction", "input") if values.get(part))
    if not asked:
        raise _UnusableError(f"with an empty '{layout.columns['instruction']}'")
    if not values["output"]:
        raise _UnusableError(f"with an empty '{layout.columns['output']}'")
    system = [Message("system", _text(values["system"]))] if values.get("system") else []
    earlier = _history(values.get("history"))
    return (*system, *earlier, Message("user", asked), Message("assistant", _text(values["output"])))


def _history(value: Any) -> Turns:
    value = _parsed(value) if value else []
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise _UnusableError("whose history is no list of pairs")
    if not all(_text(text).strip() for pair in value for text in pair):
        raise _UnusableError("with an empty turn in its history")
    return tuple(
        turn for asked, said in value for turn in (Message("user", _text(asked)), Message("assistant", _text(said)))
    )


def _prompt(layout: Layout, values: Mapping[str, Any]) -> Turns:
    for part in ("prompt", "completion"):
        if not values[part]:
            raise _UnusableError(f"with an empty '{layout.columns[part]}'")
    asked, answer = values["prompt"], values["completion"]
    before = (Message("user", asked),) if isinstance(asked, str) else _turns(asked, layout.columns["prompt"])
    said = (Message("assistant", answer),) if isinstance(answer, str) else _turns(answer, layout.columns["completion"])
    # only completions are learnt from
    return (*(dataclasses.replace(turn, weight=0) if turn.role == "assistant" else turn for turn in before), *said)


def _turns(value: Any, name: str) -> Turns:
    if not value:
        raise _UnusableError(f"with an empty '{name}'")
    turns = _parsed(value)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _UnusableError(f"whose '{name}' is no list of turns")
    if not turns:
        raise _UnusableError(f"with an empty '{name}'")
    return tuple(_turn(turn) for turn in turns)


def _parsed(value: Any) -> Any:
    """What a text that should be JSON says; the text itself where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def _turn(turn: Mapping[str, Any]) -> Message:
    said = str(_first(turn, "role", "from") or "")
    role = ROLES.get(said.strip().casefold())
    if role is None:
        raise _UnusableError(f"with a turn of an unknown role, {said[:30]!r}" if said else "with a turn without a role")
    content = _first(turn, "content", "value")
    if turn.get("tool_calls"):
        raise _UnusableError("with a turn that calls tools")
    text = _text(content)
    if not text.strip():
        raise _UnusableError(f"with an empty turn of the {role}")
    return Message(role, text, _weight(turn))


def _first(turn: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these keys that has one; tables fill keys that a row lacks with None."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _text(content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise _UnusableError("with a turn that holds something other than text")


def _weight(turn: Mapping[str, Any]) -> int:
    weight = _first(turn, "weight", "train")
    if weight is None:
        return 1
    found = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1}.get(str(weight))
    if found is None or (isinstance(weight, bool) and "weight" in turn):
        raise _UnusableError("with a weight other than 0 or 1")
    return found


def _check(turns: Sequence[Message]) -> None:
    """Raises _UnusableError where the turns do not follow each other as in a conversation."""
    spoken = turns[1:] if turns[0].role == "system" else turns
    roles = [turn.role for turn in spoken]
    if "user" not in roles:
        raise _UnusableError("without a turn of the user")
    if "system" in roles:
        raise _UnusableError("with a system turn after the first turn")
    if roles[0] != "user":
        raise _UnusableError(f"that start with the {roles[0]}")
    for before, after in itertools.pairwise(roles):
        if before == after != "tool":
            raise _UnusableError(f"with two turns of the {before} in a row")
        if (before, after) in (("user", "tool"), ("tool", "user")):
            raise _UnusableError("with a turn of a tool that does not stand between turns of the assistant")
    if roles[-1] != "assistant":
        raise _UnusableError("whose last turn is not the assistant's")


def _answered(turns: Sequence[Message]) -> tuple[Turns, str]:
    """Cut at the last turn of the assistant that is to be learnt."""
    at = max((i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.weight == 1), default=None)
    if at is None:
        raise _UnusableError("in which all turns of the assistant have the weight 0")
    return tuple(turns[:at]), turns[at].content
