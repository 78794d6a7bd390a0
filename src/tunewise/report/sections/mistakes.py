"""The worst mistakes: what was wanted, what was said how surely, and the training rows that look most alike."""

from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record

NAME = "mistakes"
MOST_MISTAKES = 20
MOST_NEIGHBOURS = 3
LONGEST_TEXT = 600

TEMPLATE = """
<p class="lede">The chosen rung's surest wrong answers on held_out{% if texts %}, each with the training rows
nearest to it: a neighbour that carries the wrong label often is the cause, or shows that the target
itself is wrong{% endif %}.</p>
{% if not texts %}<p class="quiet">Texts are left out of this report.</p>{% endif %}
<ol class="mistakes">
{% for row in rows %}
<li>
<p class="was"><span class="id">{{ row.id }}</span> <b>{{ row.target }}</b> <span class="quiet">answered as</span>
<b>{{ row.label }}</b>{% if row.get("confidence") is not none %}
 <span class="quiet">{{ row.confidence|share }} sure</span>{% endif %}</p>
{% if texts %}
<blockquote dir="auto">{{ row.text|shortened(longest) }}</blockquote>
{% if row.get("neighbours") %}<ul class="near">
{% for near in row.neighbours[:most] %}
<li><span class="id">{{ "%.2f"|format(near.similarity) if near.similarity is not none else "-" }}</span>
<b>{{ near.target }}</b> <span dir="auto">{{ near.text|shortened(200) }}</span></li>
{% endfor %}</ul>{% endif %}
{% endif %}
</li>
{% endfor %}
</ol>
{% if note %}<p class="quiet">{{ note }}</p>{% endif %}
"""


def render(record: Record) -> Section:
    if record.mistakes is None:
        return missing("Worst mistakes", "This run ended before its mistakes were collected.")
    if not record.mistakes:
        return missing("Worst mistakes", "The chosen rung made no mistake on held_out.")
    rows, note = first(record.mistakes, MOST_MISTAKES, "mistakes")
    return Section(
        title="Worst mistakes",
        html=fragment(TEMPLATE, rows=rows, note=note, texts=record.texts, longest=LONGEST_TEXT, most=MOST_NEIGHBOURS),
    )
