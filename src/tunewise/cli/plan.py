"""`tunewise plan`: what each rung would take here, without running any."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import read_task


def plan(
    task: Annotated[Path, typer.Argument(help="A task file (task.yaml) or a data file (tickets.csv).")],
    model: Annotated[list[str] | None, typer.Option(help="Base model; may be given several times.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes; replaces the task's budget.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print what will be tried, with expected time and memory per rung, and what does not fit and why.

    Example: tunewise plan task.yaml --minutes 10
    """
    parsed = read_task(task, set_ or [], **{"models": model, "budget.minutes": minutes})
    from tunewise.cli.view import view_for
    from tunewise.story.fit import plan_task

    with view_for(json=json, quiet=False) as view:
        view.plan(plan_task(parsed, watcher=view))
