"""Chart specifications in Plotly's JSON; colours of text, grid and paper are set by the page, for light and dark."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewise.report import sentences

ACCENT = "#2e7bcf"
NEUTRAL = "#7b8694"
WARM = "#c2671f"
"""Each stands out by 3:1 or more from the light and from the dark paper (a test computes it)."""

SYMBOLS = ("circle", "square", "diamond", "cross", "hexagon", "star", "x", "pentagon", "hourglass", "bowtie")
LONGEST_LABEL = 28
Spec = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LadderPoint:
    """One rung in the ladder chart; scores are already in the unit that is printed."""

    name: str
    seconds: float
    score: float
    low: float
    high: float
    chosen: bool
    provisional: bool
    """Measured on dev only, while others were measured on held_out."""
    hover: str


def plain(text: str) -> str:
    """Text as Plotly shows it literally: its labels understand a little HTML, so that must be escaped."""
    return html.escape(text, quote=False)


def shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    """At most this many characters, with an ellipsis where something is missing."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def ladder(
    points: Sequence[LadderPoint], *, unit: str, band: tuple[float, float], best: float, floor: float | None
) -> Spec:
    """Score against seconds (log), with interval bars, the margin as a band and the majority rung as a line.

    Where the contenders lie close together and others far off, the axis shows the contenders, and the others stand at
    its edge as arrows with their score.
    """
    low_x, high_x = _log_range([point.seconds for point in points])
    near = contenders(points, best)
    low_y, high_y = min([p.low for p in near] + [band[0]]), max([p.high for p in near] + [band[1]])
    if len(near) == len(points) and floor is not None:
        low_y, high_y = min(low_y, floor), max(high_y, floor)
    pad = 0.1 * ((high_y - low_y) or 1.0)
    window = (low_x, high_x, low_y - pad * (1 if len(near) == len(points) else 2), high_y + pad)
    placed = [point if point in near else _at_edge(point, window, pad, unit) for point in points]
    sides = _label_sides(placed, window)
    shown_floor = floor is not None and window[2] < floor < window[3]
    return {
        "data": [_ladder_trace(point, _symbol(i, point, points[i]), sides[i]) for i, point in enumerate(placed)],
        "layout": {
            "height": 400,
            "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
            "showlegend": False,
            "shapes": [_rectangle(band), *([_line(floor)] if floor is not None and shown_floor else [])],
            "xaxis": {"type": "log", "range": [low_x, high_x], "title": {"text": "time to get there"}}
            | _second_ticks(low_x, high_x),
            "yaxis": {"range": list(window[2:]), "ticksuffix": unit, "nticks": 8},
        },
        # labels beside the points have no room on a phone; a legend below takes their place
        "narrow": {"mode": "markers", "layout": {"showlegend": True, "height": 480}},
    }


def contenders(points: Sequence[LadderPoint], best: float) -> list[LadderPoint]:
    """The points worth a close look: all of them, or the two or more in the top third when that third is crowded."""
    span = max(abs(point.score - best) for point in points)
    near = [point for point in points if abs(point.score - best) <= span / 3]
    if not 2 <= len(near) < len(points):
        return list(points)
    width = max(point.high for point in near) - min(point.low for point in near)
    return near if width < span / 2 else list(points)


def _at_edge(point: LadderPoint, window: "Box", pad: float, unit: str) -> LadderPoint:
    """The same rung at the nearer edge of the axis, named with its score, without a bar."""
    edge = window[2] + pad * 0.7 if point.score < window[2] else window[3] - pad * 0.7
    if window[2] <= point.score <= window[3]:
        edge = point.score
    name = f"{point.name} {point.score:.{1 if unit else 3}f}{unit}"
    return replace(point, name=name, score=edge, low=edge, high=edge)


def _symbol(i: int, placed: LadderPoint, point: LadderPoint) -> str:
    if placed.score == point.score:
        return SYMBOLS[i % len(SYMBOLS)]
    return "triangle-down" if placed.score > point.score else "triangle-up"


def _ladder_trace(point: LadderPoint, symbol: str, side: str) -> Spec:
    colour = ACCENT if point.chosen else NEUTRAL
    name = plain(point.name)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [point.seconds],
        "y": [point.score],
        "text": [f"<b>{name}</b>" if point.chosen else name],
        "textposition": side,
        "hovertext": [plain(point.hover)],
        "hoverinfo": "text",
        "cliponaxis": False,
        "marker": {
            "symbol": f"{symbol}-open" if point.provisional else symbol,
            "size": 14 if point.chosen else 10,
            "color": colour,
            "line": {"width": 2 if point.provisional else 0, "color": colour},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [point.high - point.score],
            "arrayminus": [point.score - point.low],
            "color": colour,
            "thickness": 1.6,
            "width": 4,
        },
    }


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    pad = 0.12 * max(high - low, 1.0)
    return low - pad, high + pad


def _second_ticks(low: float, high: float) -> Spec:
    marks = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 360000]
    names = ["1 ms", "10 ms", "0.1 s", "1 s", "10 s", "1 min", "10 min", "1 h", "10 h", "100 h"]
    shown = [(m, n) for m, n in zip(marks, names, strict=True) if low <= math.log10(m) <= high]
    return {"tickmode": "array", "tickvals": [m for m, _ in shown], "ticktext": [n for _, n in shown]}


def _rectangle(band: tuple[float, float]) -> Spec:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": band[0], "y1": band[1],
        "fillcolor": ACCENT, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _line(height: float) -> Spec:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height,
        "line": {"width": 1, "dash": "dot", "color": NEUTRAL}, "layer": "below",
    }  # fmt: skip


Box = tuple[float, float, float, float]
WIDTH, HEIGHT, LETTER, LINE = 880.0, 340.0, 7.4, 18.0
"""Pixels of the plot on a wide page and of one letter, near enough to keep labels off each other."""


def _label_sides(points: Sequence[LadderPoint], window: Box) -> list[str]:
    """Where each label goes so that it covers as little as possible, another label least of all; the chosen first."""
    low_x, high_x, low_y, high_y = window
    spots: list[tuple[float, float]] = []
    taken: list[tuple[float, Box]] = []
    for point in points:
        x = (math.log10(point.seconds) - low_x) / (high_x - low_x) * WIDTH
        y, top, bottom = (
            (high_y - value) / (high_y - low_y) * HEIGHT for value in (point.score, point.high, point.low)
        )
        spots.append((x, y))
        taken += [(3.0, (x - 7, y - 7, x + 7, y + 7)), (1.0, (x - 4, top, x + 4, bottom))]
    sides = [""] * len(points)
    for i in sorted(range(len(points)), key=lambda i: not points[i].chosen):
        boxes = _label_boxes(*spots[i], LETTER * len(points[i].name))
        inside = {side: box for side, box in boxes.items() if box[0] >= 0 and box[2] <= WIDTH} or boxes
        sides[i] = min(inside, key=lambda side: sum(weight * _shared(inside[side], box) for weight, box in taken))
        taken.append((20.0, boxes[sides[i]]))
    return sides


def _label_boxes(x: float, y: float, width: float) -> dict[str, Box]:
    right, left = (x + 10, x + 10 + width), (x - 10 - width, x - 10)
    heights = {"middle": (y - LINE / 2, y + LINE / 2), "top": (y - 8 - LINE, y - 8), "bottom": (y + 8, y + 8 + LINE)}
    return {
        f"{row} {side}": (span[0], heights[row][0], span[1], heights[row][1])
        for row in ("middle", "top", "bottom")
        for side, span in (("right", right), ("left", left))
    }


def _shared(a: Box, b: Box) -> float:
    """Square pixels that two boxes have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def curves(best: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Spec:
    """Loss by optimiser step: dev and train of the best trial, and dev of the others behind them, faint."""

    def trace(row: Mapping[str, Any], part: str, **style: Any) -> Spec:
        y = row[f"{part}_losses"]
        width, colour, opacity, dash = style["width"], style["colour"], style["opacity"], style.get("dash", "solid")
        return {
            "type": "scatter",
            "mode": "lines" if len(y) > 1 else "markers",
            "name": style["name"],
            "x": row[f"{part}_steps"],
            "y": y,
            "opacity": opacity,
            "line": {"width": width, "color": colour, "dash": dash},
            "marker": {"color": colour},
            "showlegend": style["show"],
            "hovertemplate": "step %{x}: %{y:.3f}<extra></extra>",
        }

    faint = [
        trace(row, "dev", name="other trials, dev", width=1, colour=NEUTRAL, opacity=0.45, show=i == 0)
        for i, row in enumerate(others)
    ]
    strong = [
        trace(best, "train", name="train", width=1.5, colour=WARM, opacity=0.9, dash="dot", show=True),
        trace(best, "dev", name="dev", width=2.5, colour=ACCENT, opacity=1.0, show=True),
    ]
    return {
        "data": [t for t in faint + strong if t["x"]],
        "layout": {
            "height": 300,
            "margin": {"l": 48, "r": 8, "t": 8, "b": 44},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
            "yaxis": {"rangemode": "normal", "nticks": 6},
        },
        "narrow": None,
    }


def heat_map(labels: Sequence[str], counts: Sequence[Sequence[int]], *, cell_text: bool) -> Spec:
    """Share of each target's rows (one per line) that went to each answer; counts on hover."""
    shares = [[n / sum(line) if sum(line) else None for n in line] for line in counts]
    hover = [
        [
            plain(f"{target} answered as {answer}: {sentences.plural(n, 'row')} of {sum(line)}")
            for answer, n in zip(labels, line, strict=True)
        ]
        for target, line in zip(labels, counts, strict=True)
    ]
    trace: Spec = {
        "type": "heatmap",
        "z": shares,
        "zmin": 0,
        "zmax": 1,
        "hovertext": hover,
        "hoverinfo": "text",
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "colorscale": [[0, "rgba(46,123,207,0)"], [1, "rgba(46,123,207,0.72)"]],
    }
    if cell_text:
        trace["text"] = [[f"{100 * s:.0f}" if s is not None and s >= 0.005 else "" for s in line] for line in shares]
        trace["texttemplate"] = "%{text}"
    many = len(labels) > 30
    ticks: Spec = {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [plain(shortened(label, 22)) for label in labels],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "tickfont": {"size": 8 if many else 12},
    }
    side = max(280, min(940, 90 + len(labels) * (10 if many else 36)))
    return {
        "data": [trace],
        "layout": {
            "height": side,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 40},
            "showlegend": False,
            "xaxis": ticks | {"title": {"text": "answer"}, "tickangle": -45, "showticklabels": not many},
            "yaxis": ticks | {"title": {"text": "target"}, "autorange": "reversed"},
        },
        "narrow": {"layout": {"height": min(side, 560), "yaxis": {"tickfont": {"size": 7 if many else 10}}}},
    }
