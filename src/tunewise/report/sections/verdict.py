"""The verdict in words, first and large, and the handful of numbers it rests on."""

from typing import Any

from tunewise.report import sentences
from tunewise.report.base import Section, fragment, missing
from tunewise.report.record import Record
from tunewise.report.verdict import find_chosen, measured_on, rung_name, verdict_words

NAME = "verdict"

TEMPLATE = """
<p class="words">{{ words }}</p>
{% if rest %}<p class="rest">{{ rest }}</p>{% endif %}
{% if why %}<p class="why">{{ why }}</p>{% endif %}
{% if facts %}
<dl class="facts">
{% for name, value, detail in facts %}
  <div><dt>{{ name }}</dt><dd>{{ value }}{% if detail %}<small>{{ detail }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% if notes %}<ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
"""


def render(record: Record) -> Section:
    verdict = record.verdict
    if verdict is None:
        return missing("Verdict", "This run ended before its verdict; continue it with --resume.")
    words, _, rest = str(verdict.get("words") or verdict_words(verdict)).partition(". ")
    said = set((record.data or {}).get("notes") or [])
    return Section(
        title="Verdict",
        html=fragment(
            TEMPLATE,
            words=words[:1].upper() + words[1:] if " " in words.split(":")[0] else words,
            rest=rest,
            why=(verdict.get("chosen") or {}).get("why"),
            facts=_facts(verdict),
            notes=[note for note in verdict.get("notes") or [] if note not in said],
        ),
    )


def _facts(verdict: dict[str, Any]) -> list[tuple[str, str, str]]:
    chosen = find_chosen(verdict)
    if chosen is None:
        return []
    part, metric = measured_on(verdict), verdict["metric"]
    score = chosen.get(part) or {}
    detail = ""
    if sentences.has_score(score):
        detail = sentences.interval(score["low"], score["high"], metric)
    return [
        (
            "chosen",
            rung_name(chosen, verdict["rungs"]),
            "" if len({r["base"] for r in verdict["rungs"]}) > 1 else chosen["base"],
        ),
        (f"{metric} on {part}", sentences.figure(score.get("score"), metric), detail),
        ("rows", f"{verdict['n'].get(part) or 0:,}", f"of {part}; {verdict['n'].get('train') or 0:,} to train on"),
        (
            "time to get there",
            sentences.seconds(chosen.get("seconds")),
            f"{sentences.share(chosen.get('share_of_budget'))} of the work",
        ),
        ("answers in", sentences.milliseconds(chosen.get("latency_ms_per_example")), "per text, one at a time"),
    ]
