"""`tunewise repeat`: the same task with other seeds or other draws, and the table over all of them."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import read_task


def repeat(
    task: Annotated[Path, typer.Argument(help="A task file (task.yaml) or a data file (tickets.csv).")],
    times: Annotated[int, typer.Option(help="How many runs.")] = 3,
    minutes: Annotated[float | None, typer.Option(help="Budget of each run in minutes.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="Climb only this rung; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default runs/<task>-<n>.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task, e.g. shots=8.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The table as one JSON object.")] = False,
) -> None:
    """Run a task several times, each with another draw of its shots or another seed, and average the rungs.

    The same command with the same --out goes on where it stopped. Example: tunewise repeat task.yaml --set shots=8
    """
    from tunewise.cli.view import view_for
    from tunewise.repeat import repeat_task
    from tunewise.report import sentences
    from tunewise.runs import next_folder

    parsed = read_task(task, set_ or [], **{"budget.minutes": minutes, "methods": methods})
    folder = out or next_folder(parsed.name)
    with view_for(json=False, quiet=True) as view:
        summary = repeat_task(parsed, times=times, folder=folder, watcher=view)
    if json:
        typer.echo(jsonlib.dumps(summary))
        return
    metric, sign = summary["metric"], -1 if summary["greater_is_better"] else 1
    for row in sorted(summary["rungs"], key=lambda r: 1e9 if r["mean"] is None else sign * r["mean"]):
        spread = "" if row["sd"] is None else f" ± {sentences.signed(row['sd'], metric).lstrip('+')} over runs"
        runs = sentences.plural(row["n"], "run")
        typer.echo(
            f"{row['method']} on {row['base']}: {sentences.figure(row['mean'], metric)}{spread}, {runs}, "
            f"chosen {row['chosen']} times"
        )
    chosen = summary["chosen"]
    typer.echo(f"what was chosen: {sentences.figure(chosen['mean'], metric)} on average; {folder / 'repeats.json'}")
