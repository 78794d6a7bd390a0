"""How training went, in words: what the curve of each trained rung's best trial shows, and what to try next."""

from typing import Any

from tunewise.evaluation.metrics import METRICS
from tunewise.report.base import Section, first, fragment, missing
from tunewise.report.record import Record
from tunewise.report.sections.curves import best_trial
from tunewise.training.diagnosis import diagnose
from tunewise.types import Curve

NAME = "diagnosis"
MOST_ROWS = 40

TEMPLATE = """
<div class="scroll"><table class="compact">
<thead><tr><th scope="col">rung</th><th scope="col">finding</th><th scope="col">evidence</th>
<th scope="col">advice</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.method }} <small class="inline">{{ row.base }}</small></th>
<td>{% if row.finding %}{{ row.finding }}{% else %}<span class="quiet">-</span>{% endif %}</td>
<td>{{ row.evidence }}</td><td>{{ row.advice }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="quiet">{{ note }}Read off the losses of each rung's best trial; the advice is for another run.</p>
"""


def render(record: Record) -> Section:
    title = "How training went"
    if record.curves is None:
        return missing(title, "This run left no training curves.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in record.curves:
        if row.get("dev_steps") or row.get("train_steps") or _diverged(row):
            groups.setdefault((row["method"], row["base"]), []).append(row)
    if not groups:
        return missing(title, "No rung of this run was trained step by step.")
    higher = record.verdict is None or METRICS.get(record.metric).greater_is_better
    shown, note = first(list(groups.values()), MOST_ROWS, "trained rungs")
    rows = [_row(best_trial(trials, higher_is_better=higher)) for trials in shown]
    return Section(title=title, html=fragment(TEMPLATE, rows=rows, note=f"{note}. " if note else ""))


def _diverged(row: dict[str, Any]) -> bool:
    return row["status"] == "failed" and "diverged:" in str(row.get("reason"))


def _row(trial: dict[str, Any]) -> dict[str, Any]:
    found = diagnose(_curve(trial))
    row = {"method": trial["method"], "base": trial["base"]}
    if found is not None:
        return {**row, "finding": found.name, "evidence": f"{found.sentence}.", "advice": f"{found.advice}."}
    if _diverged(trial):
        return {**row, "finding": "divergence", "evidence": f"{trial['reason']}.", "advice": "a lower learning rate."}
    return {**row, "finding": "", "evidence": "Too few points to say anything.", "advice": ""}


def _curve(trial: dict[str, Any]) -> Curve:
    """The trial's curve; points without a number, which a record cannot hold, are left out."""
    points = {part: _points(trial, part) for part in ("train", "dev")}
    return Curve(
        train_steps=tuple(step for step, _ in points["train"]),
        train_losses=tuple(loss for _, loss in points["train"]),
        dev_steps=tuple(step for step, _ in points["dev"]),
        dev_losses=tuple(loss for _, loss in points["dev"]),
        best_step=int(trial.get("best_step") or -1),
    )


def _points(trial: dict[str, Any], part: str) -> list[tuple[int, float]]:
    steps, losses = trial.get(f"{part}_steps") or [], trial.get(f"{part}_losses") or []
    return [(int(step), float(loss)) for step, loss in zip(steps, losses, strict=True) if loss is not None]
