"""`tunewise evaluate`: score a bundle on labelled rows, with intervals and per slice."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import overrides


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    data: Annotated[Path, typer.Argument(help="A labelled data file, or a task file whose held_out is scored.")],
    metric: Annotated[str | None, typer.Option(help="Metric; default: the one the bundle was chosen by.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Score a bundle on rows it has not seen, with a confidence interval, per slice where slices are named.

    Example: tunewise evaluate runs/tickets-1/bundle fresh.csv
    """
    from tunewise.rescore import rescore

    found = rescore(bundle, data, metric=metric, device=device, overrides=overrides(set_ or []))
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
        return
    from tunewise.report.sentences import points_with_interval

    score = found["score"]
    typer.echo(
        f"{score['metric']}: {points_with_interval(score['value'], score['low'], score['high'])}, n = {score['n']}"
    )
    for part in found["slices"]:
        score = part["score"]
        shown = points_with_interval(score["value"], score["low"], score["high"])
        typer.echo(f"  {part['column']} = {part['value']}: {shown}, n = {score['n']}")
    for note in found["notes"]:
        typer.echo(note)
