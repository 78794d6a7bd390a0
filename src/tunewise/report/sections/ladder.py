"""The ladder as a picture: what each rung reaches, how surely, and how long it took."""

from typing import Any

from tunewise.evaluation.metrics import METRICS
from tunewise.report import charts, sentences
from tunewise.report.base import Section, fragment, missing
from tunewise.report.record import Record
from tunewise.report.verdict import find_chosen, measured_on, rung_name, scored

NAME = "ladder"
SHORTEST_SECONDS = 0.001

TEMPLATE = """
<p class="lede">{{ metric }} against time. Bars are {{ level }} intervals; the band is the margin of {{ margin }} to the
best score: a cheaper rung inside it is good enough{% if floor %}; the dotted line is always giving the same
answer{% endif %}.{% if zoomed %} Rungs far from the best stand at the edge, with their score.
{% endif %}{% if provisional %} Hollow points were measured on dev only.{% endif %}</p>
<div class="chart" data-chart="ladder" role="img"
 aria-label="Score against time of each rung; the table below has the numbers"></div>
"""


def render(record: Record) -> Section:
    verdict = record.verdict
    if verdict is None:
        return missing("Quality against cost", "This run ended before any rung was compared.")
    part, metric = measured_on(verdict), record.metric
    points = _points(verdict, part)
    if not points:
        return missing("Quality against cost", "No rung has a score yet, so there is nothing to draw.")
    scale = _scale(metric)
    best = scored(verdict, part)[0][part]["score"] * scale
    margin = verdict["margin"] * scale * (-1 if METRICS.get(metric).greater_is_better else 1)
    floors = [rung for rung in scored(verdict, part) if rung["method"] == "majority"]
    floor = floors[0][part]["score"] * scale if floors else None
    zoomed = len(charts.contenders(points, best)) < len(points)
    unit = " %" if scale == 100 else ""
    return Section(
        title="Quality against cost",
        html=fragment(
            TEMPLATE,
            metric=metric,
            level=f"{100 * verdict['level']:.0f} %",
            margin=_margin(verdict["margin"] * scale, METRICS.get(metric).unit.removesuffix("s")),
            floor=floor is not None and not zoomed,
            zoomed=zoomed,
            provisional=any(point.provisional for point in points),
        ),
        charts={
            "ladder": charts.ladder(
                points, unit=unit, band=(min(best, best + margin), max(best, best + margin)), best=best, floor=floor
            )
        },
    )


def _margin(value: float, unit: str) -> str:
    return f"{value:g} {unit}" if value == 1 else f"{value:g} {unit}s"


def _scale(metric: str) -> int:
    return 100 if METRICS.get(metric).unit == "points" else 1


def _points(verdict: dict[str, Any], part: str) -> list[charts.LadderPoint]:
    chosen = find_chosen(verdict)
    points = []
    for rung in verdict["rungs"]:
        on = part if sentences.has_score(rung.get(part)) else "dev"
        score = rung.get(on)
        if sentences.has_score(score) and rung.get("seconds") is not None:
            points.append(_point(rung, on, verdict, is_chosen=rung is chosen, provisional=on != part))
    return points


def _point(
    rung: dict[str, Any], on: str, verdict: dict[str, Any], *, is_chosen: bool, provisional: bool
) -> charts.LadderPoint:
    score, scale, metric = rung[on], _scale(verdict["metric"]), verdict["metric"]
    name = rung_name(rung, verdict["rungs"])
    return charts.LadderPoint(
        name=charts.shortened(name),
        # the axis is logarithmic: rungs made in no time at all stand at its left end
        seconds=max(rung["seconds"], SHORTEST_SECONDS),
        score=scale * score["score"],
        low=scale * (score["score"] if score.get("low") is None else score["low"]),
        high=scale * (score["score"] if score.get("high") is None else score["high"]),
        chosen=is_chosen,
        provisional=provisional,
        hover=f"{name}: {sentences.points(score, metric)} on {on}, {sentences.seconds(rung['seconds'])}",
    )
