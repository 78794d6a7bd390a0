"""What a run shows: a ladder that is redrawn in place, plain lines, or one JSON object per line."""

import io
import json
import re
from types import SimpleNamespace
from typing import Any, TextIO, cast

import pytest

from tunewise.cli.view import JsonView, LiveView, PlainView, QuietView, View, interval_bar, view_for
from tunewise.search.watch import PlanRow
from tunewise.types import Score

EVIL = "\x1b]0;owned\x07[bold red]x[/bold red]\x1b[2J\r\u202e\nline two [/]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def score(value: float, half: float = 0.01, metric: str = "accuracy") -> Score:
    return Score(metric=metric, value=value, low=value - half, high=value + half, n=100, method="wilson")


def row(method: str, *, fits: bool = True, **more: Any) -> PlanRow:
    values = {"reason": None, "seconds": 72.0, "memory_bytes": 310 << 20, "candidates": 8, "note": ""} | more
    return PlanRow(method=method, base="bundled:minilm", fits=fits, **values)


def tell(view: View) -> None:
    """A short run, from plan to verdict."""
    view.say("Found the columns message and intent.")
    view.plan([row("majority"), row("lora"), row("full", fits=False, reason="it needs 9 GB, there are 4")])
    view.rung("lora", "bundled:minilm", "running", "bracket 1")
    view.progress("lora", "bundled:minilm", 0.42, "step 84 of 200")
    view.score("lora", "bundled:minilm", score(0.912), 72.0, 8)
    view.budget(72.0, 600.0, 1_200_000, 9_000_000)
    view.rung("lora", "bundled:minilm", "finished", "")
    view.verdict({"words": "lora: 91.2 %"})


def screen(text: str, width: int = 80) -> list[str]:
    """What a terminal shows after these bytes; only the sequences rich uses are known, any other fails."""
    lines, x, y = [[" "] * width], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.?|[^\x1b]", text, flags=re.DOTALL):
        if part == "\n":
            y, x = y + 1, 0
            lines += [[" "] * width] if y == len(lines) else []
        elif part == "\r":
            x = 0
        elif re.fullmatch(r"\x1b\[\d+A", part):
            y -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[y] = [" "] * width
        elif re.fullmatch(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]", part):
            continue
        else:
            assert len(part) == 1, f"unknown sequence {part!r}"
            assert part >= " ", f"control character {part!r}"
            assert x < width, f"line runs over: {''.join(lines[y])}"
            lines[y][x], x = part, x + 1
    return ["".join(line).rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_the_view_suits_the_stream() -> None:
    assert isinstance(view_for(Terminal(), json=False, quiet=False), LiveView)
    assert isinstance(view_for(io.StringIO(), json=False, quiet=False), PlainView)
    assert isinstance(view_for(Terminal(), json=True, quiet=True), JsonView)
    assert type(view_for(Terminal(), json=False, quiet=True)) is QuietView


def test_without_a_stream_it_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with view_for(json=False, quiet=False) as view:
        view.say("hello")
    assert capsys.readouterr().out == "hello\n"


def test_plain_lines_tell_the_whole_run() -> None:
    stream = io.StringIO()
    with view_for(stream, json=False, quiet=False) as view:
        tell(view)
    assert stream.getvalue().splitlines() == [
        "Found the columns message and intent.",
        "plan: majority on bundled:minilm: 8 candidates, about 1 min 12 s and 310 MB each",
        "plan: lora on bundled:minilm: 8 candidates, about 1 min 12 s and 310 MB each",
        "plan: full on bundled:minilm: not tried: it needs 9 GB, there are 4",
        "lora on bundled:minilm: running (bracket 1)",
        "lora on bundled:minilm: 42 % step 84 of 200",
        "lora on bundled:minilm: 91.2 % [90.2, 92.2] on dev; 8 trials, 1 min 12 s",
        "budget: 1 min 12 s of 10 min, 1.2M of 9.0M work",
        "lora on bundled:minilm: finished",
        "lora: 91.2 %",
    ]


def test_plain_progress_is_said_at_most_every_ten_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    view = PlainView(stream, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        view.progress("lora", "b", second / 25, "")
    assert [line.split(": ")[1].strip() for line in stream.getvalue().splitlines()] == ["0 %", "40 %", "80 %"]


def test_quiet_says_the_verdict_only() -> None:
    stream = io.StringIO()
    with view_for(stream, json=False, quiet=True) as view:
        tell(view)
    assert stream.getvalue() == "lora: 91.2 %\n"


def test_each_line_of_json_is_an_object_of_its_own() -> None:
    stream = io.StringIO()
    with view_for(stream, json=True, quiet=False) as view:
        tell(view)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["say", "plan", "rung", "progress", "score", "budget", "rung", "verdict"]
    assert events[1]["rows"][2]["reason"] == "it needs 9 GB, there are 4"
    assert events[4]["score"]["value"] == 0.912


def test_json_has_null_where_there_is_no_number() -> None:
    stream = io.StringIO()
    JsonView(stream).verdict({"score": float("nan"), "rows": [float("inf")]})
    assert json.loads(stream.getvalue())["verdict"] == {"score": None, "rows": [None]}
    assert "NaN" not in stream.getvalue()


def test_the_live_ladder_ends_as_one_clean_table(terminal: Terminal) -> None:
    with LiveView(terminal, width=80) as view:
        tell(view)
    shown = screen(terminal.getvalue())
    text = "\n".join(shown)
    assert text.count("best on dev") == 1
    assert "plan: lora on bundled:minilm: 8 candidates, about 1 min 12 s and 310 MB each" in shown
    assert shown[0] == "Found the columns message and intent."
    assert re.search(r"lora +91\.2 % +─+●─+ +1 min 12 s +8 +finished", text)
    assert re.search(r"full +skipped it needs 9", text)
    assert "plan: full on bundled:minilm: not tried: it needs 9 GB, there are 4" in shown
    assert "━ 1 min 12 s of 10 min, 1.2M of 9.0M work" in text
    assert [line for line in shown if line][-1] == "lora: 91.2 %"


def test_the_cursor_comes_back_when_a_run_fails(terminal: Terminal) -> None:
    def fail() -> None:
        with LiveView(terminal, width=80) as view:
            view.rung("lora", "b", "running", "")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
    assert "stopped" in "\n".join(screen(terminal.getvalue()))


@pytest.mark.parametrize("width", [80, 60, 120])
def test_no_line_is_wider_than_the_terminal(terminal: Terminal, width: int) -> None:
    with LiveView(terminal, width=width) as view:
        for i in range(12):
            method, base = f"a_rather_long_method_{i}", f"hub:organisation/with-a-long-name-{i}"
            view.rung(method, base, "running", "a sentence that is much too long for the line it stands on " * 3)
            view.score(method, base, score(0.5 + i / 100), 4321.0, 123)
        view.budget(4321.0, 6000.0, 8_123_456_789, 9_000_000_000)
    text = "\n".join(screen(terminal.getvalue(), width))
    assert "50.0 %" in text
    assert "1 h 12 min" in text


@pytest.mark.parametrize("kind", ["live", "plain", "quiet", "json"])
def test_nothing_in_the_data_steers_the_terminal(terminal: Terminal, kind: str) -> None:
    stream: TextIO = terminal if kind == "live" else io.StringIO()
    with view_for(stream, json=kind == "json", quiet=kind == "quiet") as view:
        view.say(EVIL)
        view.plan(
            [cast(PlanRow, SimpleNamespace(**vars(row("m")) | {"note": EVIL, "method": EVIL}))]
            if kind != "json"
            else []
        )
        view.rung("lora" + EVIL, "b" + EVIL, "running", EVIL)
        view.progress("lora", "b", 0.5, EVIL)
        view.score("lora", "b" + EVIL, score(0.9), 1.0, 1)
        view.verdict({"words": EVIL})
    raw = cast(io.StringIO, stream).getvalue()
    assert "\x1b]" not in raw
    assert "\x1b[2J" not in raw
    assert "\u202e" not in raw
    assert "\x07" not in raw
    if kind == "json":
        assert json.loads(raw.splitlines()[0])["event"] == "say"
    else:
        assert "[bold red]x[/bold red]" in " ".join(screen(raw, 2000))


def test_an_interval_bar_is_drawn_in_ten_cells() -> None:
    # of 0 to 1: the interval 0.3 to 0.7 covers cells 3 to 7, the score lies in cell 5
    assert interval_bar(score(0.5, 0.2), 0.0, 1.0) == "   ──●──  "
    assert interval_bar(score(float("nan")), 0.0, 1.0) == " " * 10


def test_a_narrow_code_page_gets_question_marks_not_a_crash() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PlainView(stream).say("größer")
    stream.flush()
    assert stream.buffer.getvalue() == b"gr??er\n"  # type: ignore[attr-defined]


def test_a_budget_without_minutes_or_work_has_no_bar() -> None:
    stream = io.StringIO()
    view_for(stream, json=False, quiet=False).budget(12.0, None, 1500, None)
    assert stream.getvalue() == "budget: 12 s, 1.5k work\n"
