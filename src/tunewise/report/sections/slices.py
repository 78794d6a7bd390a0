"""Whether some rows are served worse: the chosen predictor's score per value of each slice column."""

from typing import Any

from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record

NAME = "slices"
MOST_VALUES = 40

TEMPLATE = """
<p class="lede">{{ metric }} of the chosen rung on held_out, per value, with its interval.
Small groups have wide ones.</p>
<div class="scroll"><table class="compact slices"><thead><tr><th scope="col">{{ columns }}</th><th scope="col">rows</th>
<th scope="col">score</th><th scope="col">interval</th><th scope="col" class="wide"></th></tr></thead><tbody>
{% for row in rows %}
<tr><td><small class="inline">{{ row.column }}</small> {{ row.value|shortened(60) }}</td>
<td>{{ "{:,}".format(row.n) }}</td>
<td>{{ row.score|figure(metric) }}</td><td>{{ row|span(metric) }}</td>
<td class="wide">{% if row.bar %}<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
<rect class="track" x="0" y="3.5" width="100" height="1"/>
<rect class="span" x="{{ row.bar[0] }}" y="2.5" width="{{ row.bar[1] }}" height="3"/>
<rect class="dot" x="{{ row.bar[2] }}" y="0.5" width="1" height="7"/></svg>{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
{% if note %}<p class="quiet">{{ note }}</p>{% endif %}
"""


def render(record: Record) -> Section:
    if record.slices is None or record.verdict is None:
        return missing("Slice by slice", "This run ended before its slices were scored.")
    if not record.slices:
        return missing("Slice by slice", "The task names no slices; add `slices: [column]` to see scores per group.")
    rows, note = first(record.slices, MOST_VALUES, "groups")
    columns = list(dict.fromkeys(str(row["column"]) for row in rows))
    ends = _ends(rows)
    return Section(
        title="Slice by slice",
        html=fragment(
            TEMPLATE,
            metric=record.metric,
            columns=", ".join(columns),
            note=note,
            rows=[row | {"bar": _bar(row, *ends)} for row in rows],
        ),
    )


def _ends(rows: list[dict[str, Any]]) -> tuple[float, float]:
    ends = [row[key] for row in rows for key in ("low", "high", "score") if row.get(key) is not None]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _bar(row: dict[str, Any], low: float, high: float) -> tuple[float, float, float] | None:
    """Start, width and middle in percent of the widest span; None where a number is missing."""
    if any(row.get(key) is None for key in ("low", "high", "score")):
        return None
    width = (high - low) or 1.0
    start, stop, middle = (100 * (row[key] - low) / width for key in ("low", "high", "score"))
    return round(start, 2), round(max(stop - start, 0.5), 2), round(min(max(middle - 0.5, 0), 99), 2)
