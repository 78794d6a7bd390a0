"""Every rung in a table: what it reached, how it compares with the best, what it cost, or why it has no score."""

from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record
from tunewise.report.verdict import find_chosen

NAME = "rungs"
MOST_ROWS = 60

TEMPLATE = """
<div class="scroll"><table class="rungs">
<thead><tr><th scope="col">rung</th><th scope="col">dev</th><th scope="col">held_out</th>
<th scope="col">against the best</th><th scope="col">time</th><th scope="col">trials</th><th scope="col">memory</th>
<th scope="col">parameters</th><th scope="col">per text</th></tr></thead>
<tbody>
{% for rung in rungs %}
<tr class="{{ 'chosen' if rung is sameas chosen else rung.status }}">
<th scope="row">{{ rung.method }}{% if rung is sameas chosen %} <span class="tag">chosen</span>{% endif %}
{% if rung.get("under_searched") %} <span class="tag warn">under-searched</span>{% endif %}
<small>{{ rung.base }}</small></th>
{% if rung.status == "finished" %}
<td>{{ score(rung.get("dev")) }}</td>
<td>{{ score(rung.get("held_out")) }}
{% if rung.get("seed_sd") is not none %}<small>seeds ± {{ spread(rung.seed_sd) }}</small>{% endif %}</td>
<td>{% set versus = rung.get("vs_best") %}
{% if versus and versus.get("difference") is not none %}
{% if rung is sameas best %}<span class="quiet">the best</span>{% else %}{{ change(versus) }}
<small>{{ versus.get("p_adjusted")|p_value }}{% if versus.get("on") == "dev" %}, on dev{% endif %}</small>{% endif %}
{% elif rung is sameas best %}<span class="quiet">the best</span>{% else %}-{% endif %}</td>
<td>{{ rung.get("seconds")|seconds }}<small>{{ rung.get("share_of_budget")|share }} of work</small></td>
<td>{{ rung.get("trials")|count }}</td>
<td>{{ rung.get("peak_memory_bytes")|size }}</td>
<td>{{ rung.get("trainable_parameters")|count }}</td>
<td>{{ rung.get("latency_ms_per_example")|milliseconds }}</td>
{% else %}
<td colspan="8" class="reason"><b>{{ rung.status|replace("_", " ") }}</b>
{%- if rung.get("reason") %}: {{ rung.reason }}{% endif %}</td>
{% endif %}
</tr>
{% if rung.status == "finished" and rung.get("reason") %}
<tr class="aside"><td></td><td colspan="8" class="reason">{{ rung.reason }}</td></tr>
{% endif %}
{% endfor %}
</tbody></table></div>
{% if ordinal %}
<p>The labels have an order, so an answer can be nearly right. On held_out, with {{ level }} intervals; mae is the mean
distance of answer and target in ranks, lower is better:</p>
<div class="scroll"><table class="compact"><thead><tr><th scope="col">rung</th>
{% for name in also %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for rung in ordinal %}
<tr><td>{{ rung.method }} <small class="inline">{{ rung.base }}</small></td>
{% for name in also %}<td>{{ rung.also[name].score|figure(name) }}
<small class="inline">{{ rung.also[name]|span(name) }}</small></td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}
<p class="quiet">{{ note }}Differences are paired on the same rows: this rung minus the best, with a
{{ level }} interval; p is two-sided, adjusted by Holm over the rungs.
Memory is the peak above the start of the trial.
{% if searched %}
<b>under-searched</b>: the budget gave this rung fewer trials than its share, so it may do better than shown.
{% endif %}</p>
"""


def render(record: Record) -> Section:
    verdict = record.verdict
    if verdict is None or not verdict["rungs"]:
        return missing("The rungs", "No rung has ended yet, so there is nothing to compare.")
    from tunewise.report import sentences
    from tunewise.report.verdict import measured_on, scored

    metric = record.metric
    ranked = scored(verdict, measured_on(verdict))
    rungs, note = first(verdict["rungs"], MOST_ROWS, "rungs")
    ordinal = [rung for rung in rungs if rung.get("also")]
    return Section(
        title="The rungs",
        html=fragment(
            TEMPLATE,
            rungs=rungs,
            ordinal=ordinal,
            also=list(ordinal[0]["also"]) if ordinal else [],
            chosen=find_chosen(verdict),
            best=ranked[0] if ranked else None,
            note=f"{note}. " if note else "",
            level=f"{100 * verdict['level']:.0f} %",
            searched=any(rung.get("under_searched") for rung in rungs),
            score=lambda value: fragment(SCORE, value=value, metric=metric),
            change=lambda versus: fragment(CHANGE, versus=versus, metric=metric, signed=sentences.signed),
            spread=lambda value: sentences.signed(value, metric).lstrip("+"),
        ),
    )


SCORE = """{% if value and value.get("score") is not none %}{{ value.score|figure(metric) }}
{% if value.get("low") is not none %}<small>{{ value|span(metric) }}</small>{% endif %}
{% else %}<span class="quiet">-</span>{% endif %}"""

CHANGE = """{{ signed(versus.difference, metric) }}
<small>{{ signed(versus.low, metric) }} to {{ signed(versus.high, metric) }}</small>"""
