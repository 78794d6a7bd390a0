"""How training went: dev and train loss of each trained rung's best trial, the other trials faint behind it."""

from typing import Any

from tunewise.evaluation.metrics import METRICS
from tunewise.report import charts
from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record

NAME = "curves"
MOST_CHARTS = 12
MOST_FAINT = 40

TEMPLATE = """
<p class="lede">Loss by optimiser step, on dev (solid) and train (dotted) for the best trial of each trained rung;
its other trials are faint.</p>
<div class="pair">
{% for panel in panels %}
<figure><figcaption><b>{{ panel.name }}</b> <span class="quiet">{{ panel.summary }}</span></figcaption>
<div class="chart" data-chart="{{ panel.chart }}" role="img"
 aria-label="Loss by step of {{ panel.name }}"></div></figure>
{% endfor %}
</div>
{% if note %}<p class="quiet">{{ note }}</p>{% endif %}
"""


def render(record: Record) -> Section:
    if record.curves is None:
        return missing("Training", "This run left no training curves.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in record.curves:
        if row.get("dev_steps") or row.get("train_steps"):
            groups.setdefault((row["method"], row["base"]), []).append(row)
    if not groups:
        return missing("Training", "No rung of this run was trained step by step.")
    shown, note = first(list(groups.items()), MOST_CHARTS, "trained rungs")
    several = len({base for _, base in groups}) > 1
    higher = record.verdict is None or METRICS.get(record.metric).greater_is_better
    panels = []
    specs = {}
    for i, ((method, base), rows) in enumerate(shown):
        best = best_trial(rows, higher_is_better=higher)
        others = [row for row in rows if row is not best][:MOST_FAINT]
        specs[f"curves-{i}"] = charts.curves(best, others)
        panels.append(
            {"name": f"{method} on {base}" if several else method, "chart": f"curves-{i}", "summary": _summary(rows)}
        )
    return Section(title="Training", html=fragment(TEMPLATE, panels=panels, note=note), charts=specs)


def best_trial(rows: list[dict[str, Any]], *, higher_is_better: bool) -> dict[str, Any]:
    """The chosen trial, else the one with the best dev score, else the one that came furthest."""

    def rank(row: dict[str, Any]) -> tuple[bool, bool, float, int]:
        score = row.get("dev_score")
        signed = (score or 0.0) if higher_is_better else -(score or 0.0)
        return bool(row.get("chosen")), score is not None, signed, len(row.get("dev_steps") or [])

    return max(rows, key=rank)


def _summary(rows: list[dict[str, Any]]) -> str:
    finished = sum(row["status"] == "finished" for row in rows)
    words = f"{finished} of {len(rows)} trials finished"
    reasons = [row["reason"] for row in rows if row["status"] == "failed" and row.get("reason")]
    return f"{words}; one failed: {charts.shortened(reasons[0], 90)}" if reasons else words
