"""What a run shows while it works: a live ladder on a terminal, lines in a pipe, or JSON for a program."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from tunewise.report import sentences
from tunewise.report.verdict import verdict_words
from tunewise.search.watch import PlanRow, Quiet, Watcher
from tunewise.types import Score

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

STATES = {
    "waiting": "dim", "running": "bold cyan", "finished": "green", "failed": "red", "skipped": "dim",
    "out_of_budget": "yellow", "closed": "dim",
}  # fmt: skip
BAR_CELLS = 10
NARROW = 72
"""Columns of a terminal below which the interval bars are left out."""
SECONDS_BETWEEN_LINES = 10.0


class View(Watcher, Protocol):
    """A watcher that owns a piece of the terminal while it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_for(stream: TextIO | None = None, *, json: bool, quiet: bool) -> View:
    """JSON when asked for, the verdict alone when quiet, live on a terminal, else lines; on stdout if not told."""
    stream = sys.stdout if stream is None else stream
    if json:
        return JsonView(stream)
    if quiet:
        return QuietView(stream)
    return LiveView(stream) if stream.isatty() else PlainView(stream)


def one_line(text: object) -> str:
    """Text from data or a model, on one line and unable to steer the terminal."""
    return " ".join(sentences.visible(str(text)).split())


def words_of(verdict: Mapping[str, Any]) -> str:
    """The verdict's own words, else the ones made from its numbers."""
    return str(verdict.get("words") or verdict_words(verdict))


def score_words(score: Score) -> str:
    """`91.2 % [90.1, 92.2]`."""
    return sentences.points({"score": score.value, "low": score.low, "high": score.high}, score.metric)


def plan_words(row: PlanRow) -> str:
    """What a rung is expected to take, or why it is not tried."""
    if not row.fits:
        return f"not tried: {row.reason or 'it does not fit this machine'}"
    tried = sentences.plural(row.candidates, "candidate")
    words = f"{tried}, about {sentences.seconds(row.seconds)} and {sentences.size(row.memory_bytes)} each"
    return f"{words}; {row.note}" if row.note else words


class QuietView(Quiet):
    """The verdict, and nothing before it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        self._line(words_of(verdict))

    def _line(self, text: str) -> None:
        line = one_line(text)
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()


class PlainView(QuietView):
    """One line per event; progress and budget at most every ten seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, sentence: str) -> None:
        self._line(sentence)

    def plan(self, rows: Sequence[PlanRow]) -> None:
        for row in rows:
            self._line(f"plan: {row.method} on {row.base}: {plan_words(row)}")

    def rung(self, method: str, base: str, state: str, detail: str) -> None:
        words = f"{method} on {base}: {state.replace('_', ' ')}"
        self._line(f"{words} ({one_line(detail)})" if detail else words)

    def score(self, method: str, base: str, score: Score, seconds: float, trials: int) -> None:
        spent = f"{sentences.plural(trials, 'trial')}, {sentences.seconds(seconds)}"
        self._line(f"{method} on {base}: {score_words(score)} on dev; {spent}")

    def progress(self, method: str, base: str, share: float, detail: str) -> None:
        if self._due(f"{method} {base}"):
            self._line(f"{method} on {base}: {100 * _share(share):.0f} % {detail}")

    def budget(
        self, spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None
    ) -> None:
        if self._due("budget"):
            self._line(budget_words(spent_seconds, total_seconds, spent_work, total_work))

    def _due(self, topic: str) -> bool:
        now = self._clock()
        due = now - self._said.get(topic, -math.inf) >= SECONDS_BETWEEN_LINES
        if due:
            self._said[topic] = now
        return due


class JsonView:
    """One JSON object per line: `{"event": "score", "method": ..., ...}`; a number that is missing is null."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, sentence: str) -> None:
        self._emit("say", sentence=sentence)

    def plan(self, rows: Sequence[PlanRow]) -> None:
        self._emit("plan", rows=[dataclasses.asdict(row) for row in rows])

    def rung(self, method: str, base: str, state: str, detail: str) -> None:
        self._emit("rung", method=method, base=base, state=state, detail=detail)

    def score(self, method: str, base: str, score: Score, seconds: float, trials: int) -> None:
        self._emit("score", method=method, base=base, score=dataclasses.asdict(score), seconds=seconds, trials=trials)

    def progress(self, method: str, base: str, share: float, detail: str) -> None:
        self._emit("progress", method=method, base=base, share=share, detail=detail)

    def budget(
        self, spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None
    ) -> None:
        self._emit(
            "budget",
            spent_seconds=spent_seconds,
            total_seconds=total_seconds,
            spent_work=spent_work,
            total_work=total_work,
        )

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        self._emit("verdict", verdict=verdict)

    def _emit(self, event: str, **values: Any) -> None:
        plain = _without_gaps({"event": event, **values})
        self._stream.write(json.dumps(plain, ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the live ladder."""

    state: str = "waiting"
    detail: str = ""
    score: Score | None = None
    seconds: float = 0.0
    trials: int = 0
    share: float | None = None


class LiveView:
    """The ladder as a table that is redrawn in place; decisions scroll above it, it stays, and the verdict ends it."""

    def __init__(self, stream: TextIO, *, width: int | None = None) -> None:
        from rich.console import Console

        self._console = Console(file=stream, width=width, highlight=False, soft_wrap=False)
        self._live: Live | None = None
        # replaced, never changed in place: rich draws from a thread of its own
        self._rows: dict[tuple[str, str], _Row] = {}
        self._verdict: str | None = None
        self._budget: tuple[float, float | None, int, int | None] | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            get_renderable=self.table, console=self._console, refresh_per_second=4, vertical_overflow="crop"
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._live is not None
        if error is not None:
            self._rows = {key: _stopped(row) for key, row in self._rows.items()}
        self._live.stop()
        self._live = None
        if self._verdict is not None:
            self._console.print(_text(self._verdict, style="bold"))

    def say(self, sentence: str) -> None:
        self._console.print(_text(sentence))

    def plan(self, rows: Sequence[PlanRow]) -> None:
        for row in rows:
            self.say(f"plan: {row.method} on {row.base}: {plan_words(row)}")
            state, detail = ("waiting", "") if row.fits else ("skipped", row.reason or "")
            self._change(row.method, row.base, state=state, detail=detail, share=None)

    def rung(self, method: str, base: str, state: str, detail: str) -> None:
        self._change(method, base, state=state, detail=detail, share=None)
        if detail and state in ("failed", "skipped", "out_of_budget", "closed"):
            # the table has room for the first words only
            self.say(f"{method} on {base}: {state.replace('_', ' ')} ({one_line(detail)})")

    def score(self, method: str, base: str, score: Score, seconds: float, trials: int) -> None:
        self._change(method, base, score=score, seconds=seconds, trials=trials)

    def progress(self, method: str, base: str, share: float, detail: str) -> None:
        self._change(method, base, state="running", share=_share(share), detail=detail)

    def budget(
        self, spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None
    ) -> None:
        self._budget = (spent_seconds, total_seconds, spent_work, total_work)

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        self._verdict = words_of(verdict)

    def _change(self, method: str, base: str, **values: Any) -> None:
        key = (method, base)
        self._rows = {**self._rows, key: dataclasses.replace(self._rows.get(key, _Row()), **values)}

    def table(self) -> "Table":
        """The ladder as it stands, with the budget below it."""
        from rich.table import Table

        rows, budget, narrow = self._rows, self._budget, self._console.width < NARROW
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", caption_justify="left")
        several = len({base for _, base in rows}) > 1
        names = {key: one_line(" ".join(key) if several else key[0]) for key in rows}
        table.add_column(
            "rung", no_wrap=True, overflow="ellipsis", width=_rung_width(names.values(), self._console.width)
        )
        # widths are fixed so that only the last column gives way, and nothing jumps when a number gets longer
        table.add_column("best on dev", no_wrap=True, width=11 if narrow else 8 + BAR_CELLS)
        table.add_column("time", justify="right", no_wrap=True, width=11)
        table.add_column("tried", justify="right", no_wrap=True, width=5)
        table.add_column("state")
        low, high = _window([row.score for row in rows.values() if row.score is not None])
        for key, row in rows.items():
            table.add_row(
                _text(names[key]),
                _score_cell(row.score, low, high, bar=not narrow),
                sentences.seconds(row.seconds) if row.trials else "",
                str(row.trials) if row.trials else "",
                _state_cell(row),
            )
        if budget is not None:
            table.caption = _budget_bar(*budget)
        return table


def budget_words(spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None) -> str:
    """`budget: 1 min 12 s of 10 min, 1.2M of 9.0M work`."""
    time_words = sentences.seconds(spent_seconds) + (f" of {sentences.seconds(total_seconds)}" if total_seconds else "")
    work_words = sentences.count(spent_work) + (f" of {sentences.count(total_work)}" if total_work else "")
    return f"budget: {time_words}, {work_words} work"


def _budget_bar(spent_seconds: float, total_seconds: float | None, spent_work: int, total_work: int | None) -> "Text":
    from rich.text import Text

    shares = [spent / total for spent, total in ((spent_seconds, total_seconds), (spent_work, total_work)) if total]
    words = budget_words(spent_seconds, total_seconds, spent_work, total_work)
    if not shares:
        return Text(words, style="dim")
    filled = round(20 * _share(max(shares)))
    bar = ("━" * filled, "cyan"), ("━" * (20 - filled), "dim")
    return Text.assemble(*bar, (f" {words.removeprefix('budget: ')}", "dim"), no_wrap=True, overflow="ellipsis")


def _rung_width(names: Iterable[str], terminal_width: int) -> int:
    """As wide as the longest name, at most 16 cells on 80 columns and less on fewer."""
    most = max(12, 16 + (terminal_width - 80) // 2)
    return min(most, max(map(len, names), default=4))


def _score_cell(score: Score | None, low: float, high: float, *, bar: bool) -> "Text":
    from rich.text import Text

    if score is None:
        return Text("")
    drawn = interval_bar(score, low, high) if bar else ""
    return Text.assemble(f"{sentences.figure(score.value, score.metric):>7} ", (drawn, "cyan"))


def interval_bar(score: Score, low: float, high: float) -> str:
    """Ten cells from `low` to `high`: a line over the interval, a point at the score."""
    values = (score.low, score.high, score.value)
    if not all(map(math.isfinite, values)):
        return " " * BAR_CELLS
    width = (high - low) or 1.0
    start, stop, middle = (min(BAR_CELLS - 1, max(0, int((v - low) / width * BAR_CELLS))) for v in values)
    return "".join("●" if i == middle else "─" if start <= i <= stop else " " for i in range(BAR_CELLS))


def _window(scores: Sequence[Score]) -> tuple[float, float]:
    ends = [end for score in scores for end in (score.low, score.high) if math.isfinite(end)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _state_cell(row: _Row) -> "Text":
    from rich.text import Text

    state = row.state.replace("_", " ")
    if row.share is not None:
        state = f"{state} {100 * row.share:.0f} %"
    detail = f" {one_line(row.detail)}" if row.detail else ""
    # the column may wrap, so that rich narrows it first; the text itself is cut
    return Text.assemble((state, STATES.get(row.state, "")), (detail, "dim"), no_wrap=True, overflow="ellipsis")


def _stopped(row: _Row) -> _Row:
    return dataclasses.replace(row, state="stopped", share=None) if row.state == "running" else row


def _text(value: object, style: str = "") -> "Text":
    """As rich prints it literally: a Text, unlike a str, is never read as markup."""
    from rich.text import Text

    return Text(one_line(value), style=style)


def _share(share: float) -> float:
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def _without_gaps(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_gaps(item) for key, item in value.items()}
    return [_without_gaps(item) for item in value] if isinstance(value, (list, tuple)) else value
