"""How sure the numbers are: the spread over seeds, and what more data would do."""

from typing import Any

from tunewise.report import sentences
from tunewise.report.base import Section, fragment, missing
from tunewise.report.record import Record

NAME = "study"

TEMPLATE = """
<p class="lede">The finalists fitted again, with other seeds and on parts of train, and scored on the same dev rows.</p>
<div class="scroll"><table class="compact"><thead><tr><th scope="col">rung</th>
<th scope="col">all of train, by seed</th><th scope="col">spread</th>
{% for share in shares %}<th scope="col">{{ share|share }} of train</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.method }} <small class="inline">{{ row.base }}</small></th>
<td>{{ row.seeds|join(", ") }}</td>
<td>{% if row.seed_sd is not none %}± {{ row.seed_sd }}{% else %}<span class="quiet">not measured</span>{% endif %}</td>
{% for value in row.parts %}<td>{{ value or "-" }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for row in rows if row.note %}<p class="quiet"><b>{{ row.method }}</b>: {{ row.note }}.</p>
{% endfor %}
"""


def render(record: Record) -> Section:
    studied = (record.verdict or {}).get("study")
    if not studied:
        return missing("How sure is this?", "The budget left no room to fit the finalists again.")
    shares = sorted({point["share"] for row in studied for point in row["points"] if point["share"] < 1.0})
    return Section(
        title="How sure is this?",
        html=fragment(TEMPLATE, shares=shares, rows=[_row(row, shares, record.metric) for row in studied]),
    )


def _row(studied: dict[str, Any], shares: list[float], metric: str) -> dict[str, Any]:
    scores = {(point["share"], point["seed"]): sentences.figure(point["score"], metric) for point in studied["points"]}
    said = [studied["more_data"], *(f"not refitted, {reason}" for reason in studied["skipped"])]
    spread = studied["seed_sd"]
    return {
        "method": studied["method"],
        "base": studied["base"],
        "seeds": [score for (share, _), score in scores.items() if share == 1.0],
        "seed_sd": None if spread is None else sentences.signed(spread, metric).lstrip("+"),
        "parts": [scores.get((share, 0)) for share in shares],
        "note": "; ".join(sentence for sentence in said if sentence),
    }
