"""Plain language for numbers and verdicts, the same in the terminal and in the report."""

import math
from collections.abc import Mapping
from typing import Any

from tunewise.evaluation.metrics import METRICS

UNKNOWN = "-"


def plural(n: int, noun: str, many: str | None = None) -> str:
    """`3,080 rows`, `1 row`."""
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def figure(value: float | None, metric: str) -> str:
    """A score: `91.2 %` for metrics counted in points, `0.412` for those in nats, `no score` where there is none."""
    if value is None or not math.isfinite(value):
        return "no score"
    return f"{100 * value:.1f} %" if METRICS.get(metric).unit == "points" else f"{value:.3f}"


def interval(low: float, high: float, metric: str) -> str:
    """`[90.1, 92.2]`, in the unit of `figure`."""
    scale, digits = (100, 1) if METRICS.get(metric).unit == "points" else (1, 3)
    return f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def points(score: Mapping[str, Any] | None, metric: str) -> str:
    """`91.2 % [90.1, 92.2]` from `{"score", "low", "high"}`; `no score` where there is none."""
    if not has_score(score):
        return "no score"
    assert score is not None
    if score.get("low") is None or score.get("high") is None:
        return figure(score["score"], metric)
    return f"{figure(score['score'], metric)} {interval(score['low'], score['high'], metric)}"


def points_with_interval(value: float, low: float, high: float) -> str:
    """`91.2 % [90.1, 92.2]` of a metric counted in points; for any metric see `points`."""
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def span(score: Mapping[str, Any], metric: str) -> str:
    """`90.1 to 92.2`, as tables show an interval; `-` where there is none."""
    if score.get("low") is None or score.get("high") is None:
        return UNKNOWN
    return interval(score["low"], score["high"], metric).strip("[]").replace(", ", " to ")


def has_score(score: Mapping[str, Any] | None) -> bool:
    """Whether there is a number, and not a gap."""
    return score is not None and score.get("score") is not None and math.isfinite(score["score"])


def signed(value: float, metric: str) -> str:
    """A difference with its sign: `+0.4` points or `-0.012` nats; a true zero is `0.0`."""
    scale, digits = (100, 1) if METRICS.get(metric).unit == "points" else (1, 3)
    rounded = round(scale * value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def difference(versus: Mapping[str, Any], metric: str, *, flip: bool = False) -> str:
    """`+0.4 [-0.2, +0.9]`; `flip` reads it from the other side."""
    value, low, high = versus["difference"], versus["low"], versus["high"]
    if flip:
        value, low, high = -value, -high, -low
    return f"{signed(value, metric)} [{signed(low, metric)}, {signed(high, metric)}]"


def seconds(value: float | None) -> str:
    """`0.4 s`, `12 s`, `1 min 12 s`, `2 h 5 min`; `-` where it was not measured."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 0.1:
        return "< 0.1 s"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(value / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def milliseconds(value: float | None) -> str:
    """`< 0.01 ms`, `0.42 ms`, `8.1 ms`, `120 ms`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 0.005:
        return "< 0.01 ms"
    return f"{value:.2f} ms" if value < 1 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def size(count: float | None) -> str:
    """Bytes in powers of 1024: `512 B`, `1.5 KB`, `23 MB`, `1.2 GB`."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1023.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TB"


def count(value: float | None) -> str:
    """`0`, `950`, `38.4k`, `2.1M`, `3.0G`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 1000:
        return f"{value:.0f}"
    for unit in ("k", "M", "G"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f}{unit}"
    return f"{value / 1000:.1f}T"


def share(value: float | None) -> str:
    """A share of a whole: `12.5 %`, `< 0.1 %`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    """`p = 0.031`, `p < 0.001`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def times(dear: float, cheap: float) -> str:
    """`38x`, `1.4x`; the ratio of two costs."""
    ratio = dear / cheap
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def visible(text: str) -> str:
    """The text with everything that steers a terminal or a parser instead of being read shown as U+FFFD."""
    return "".join("\ufffd" if _steers(ord(letter)) else letter for letter in text)


def _steers(code: int) -> bool:
    if code < 32:
        return code not in (9, 10)
    # DEL and C1 controls, direction overrides and isolates, lone surrogates
    return 127 <= code < 160 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or 0xD800 <= code < 0xE000
