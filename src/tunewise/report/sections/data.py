"""What the run learnt from: rows and labels of each part, lengths, and what the audit found."""

from typing import Any

from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record

NAME = "data"
MOST_LABELS = 30
MOST_FINDINGS = 30
MOST_IDS = 5

TEMPLATE = """
<p class="lede">{{ rows }}. {{ columns }} {{ lengths }}</p>
{% if findings %}
<ul class="findings">
{% for finding in findings %}
<li class="{{ 'mild' if finding.severity == 'info' else 'severe' }}">
<b>{{ finding.check|replace("_", " ") }}</b>
{{ finding.sentence }}{% if finding.get("ids") %} <small class="inline">rows {{ finding.ids[:most_ids]|join(", ") }}
{%- if finding.count > most_ids %}, … ({{ "{:,}".format(finding.count) }}){% endif %}</small>
{% endif %}</li>
{% endfor %}
</ul>
{% if findings_note %}<p class="quiet">{{ findings_note }}</p>{% endif %}
{% else %}<p>The audit found nothing to report.</p>{% endif %}
{% if labels %}
<div class="scroll"><table class="compact"><thead><tr><th scope="col">label</th>
<th scope="col">train</th><th scope="col">dev</th>
<th scope="col">held_out</th><th scope="col" class="wide"></th></tr></thead><tbody>
{% for row in labels %}
<tr><td>{{ row.label|shortened(60) }}</td>{% for part in ("train", "dev", "held_out") %}
<td>{{ "{:,}".format(row[part]) if row.get(part) is not none else "-" }}</td>{% endfor %}
<td class="wide"><svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
<rect class="span" x="0" y="1.5" width="{{ row.width }}" height="5"/></svg></td></tr>
{% endfor %}</tbody></table></div>
{% if labels_note %}<p class="quiet">{{ labels_note }}</p>{% endif %}
{% endif %}
{% if notes %}<ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
"""


def render(record: Record) -> Section:
    data = record.data
    if data is None:
        return missing("Data", "This run ended before its data were summarised.")
    labels = sorted(data.get("labels") or [], key=lambda row: -(row.get("train") or 0))
    most = max((row.get("train") or 0 for row in labels), default=0) or 1
    labels, labels_note = first(labels, MOST_LABELS, "labels, the most frequent first")
    findings, findings_note = first(data.get("findings") or [], MOST_FINDINGS, "findings")
    return Section(
        title="Data",
        html=fragment(
            TEMPLATE,
            rows=_rows(data.get("n") or {}),
            columns=_columns(data.get("columns") or {}),
            lengths=_lengths(data.get("lengths") or {}),
            labels=[row | {"width": round(100 * (row.get("train") or 0) / most, 2)} for row in labels],
            labels_note=labels_note,
            findings=findings,
            findings_note=findings_note,
            notes=data.get("notes") or [],
            most_ids=MOST_IDS,
        ),
    )


def _rows(n: dict[str, Any]) -> str:
    parts = [f"{n[part]:,} {part}" for part in ("train", "dev", "held_out") if n.get(part) is not None]
    return f"Rows: {', '.join(parts)}" if parts else "Rows were not counted"


def _columns(columns: dict[str, Any]) -> str:
    if not columns.get("inputs"):
        return ""
    words = f"Read from {', '.join(columns['inputs'])}; target {columns.get('target')}"
    if columns.get("slices"):
        words += f"; slices {', '.join(columns['slices'])}"
    return words + (f"; rows of one {columns['cluster']} kept together." if columns.get("cluster") else ".")


def _lengths(lengths: dict[str, Any]) -> str:
    if lengths.get("median") is None:
        return ""
    words = f"Tokens per row: median {lengths['median']:,.0f}, 95 % below {lengths['p95']:,.0f}"
    words += f", at most {lengths['max']:,.0f}"
    if lengths.get("limit") is not None:
        words += f"; {lengths.get('too_long') or 0:,} above the base's limit of {lengths['limit']:,}"
        words += f" (policy {lengths.get('policy')})"
    return words + "."
