"""How to get the same verdict again: command, task, budget, seed, environment, and how often held_out was opened."""

from typing import Any

from tunewise.report.base import Section, fragment, missing
from tunewise.report.record import Record
from tunewise.report.sentences import count

NAME = "reproduce"

TEMPLATE = """
{% if command %}<pre><code>{{ command }}</code></pre>
<p class="quiet">The same data, work and seed give the same verdict; times and memory are this machine's.</p>{% endif %}
{% if facts %}<dl class="pairs">
{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>{% endif %}
{% if task_yaml is not none %}<details><summary>task.yaml</summary><pre><code>{{ task_yaml }}</code></pre></details>
{% else %}<p class="quiet">The task file of this run is missing.</p>{% endif %}
"""


def render(record: Record) -> Section:
    if record.verdict is None and record.task_yaml is None:
        return missing("Reproduce", "This run left neither a task file nor a verdict.")
    facts = [] if record.verdict is None else _facts(record.verdict)
    return Section(
        title="Reproduce",
        html=fragment(TEMPLATE, command=_command(record), facts=facts, task_yaml=record.task_yaml),
    )


def _command(record: Record) -> str | None:
    if record.task_yaml is None:
        return None
    work = ((record.verdict or {}).get("budget") or {}).get("work")
    return f"tunewise fit task.yaml --set budget.work={work}" if work else "tunewise fit task.yaml"


def _facts(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    budget = verdict.get("budget") or {}
    openings = verdict.get("held_out_openings") or {}
    facts = [
        ("seed", str(verdict.get("seed"))),
        ("metric", str(verdict.get("signature") or verdict["metric"])),
        ("budget", f"{_amounts(budget.get('asked') or {})}; spent {_amounts(budget.get('spent') or {})}"),
        (
            "held_out opened",
            f"{openings.get('this_run', 0)} in this run, {openings.get('all_runs', 0)} in all runs on these data",
        ),
        ("started", str(verdict.get("started") or "not recorded")),
        ("tunewise", str(verdict.get("tunewise") or "not recorded")),
    ]
    return facts + [(str(key), _flat(value)) for key, value in sorted((verdict.get("environment") or {}).items())]


def _amounts(amounts: dict[str, Any]) -> str:
    known = {
        "minutes": lambda value: f"{value:g} minutes",
        "work": lambda value: f"{count(value)} tokens of work",
        "trials": lambda value: f"{value} trials",
    }
    parts = [
        known[key](value) if key in known else f"{key} {value}" for key, value in amounts.items() if value is not None
    ]
    return ", ".join(parts) if parts else "no limit recorded"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
