"""`tunewise evaluate`: score a bundle on labelled rows, with intervals and per slice."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli.options import AllowPickle, TrustRemoteCode, overrides


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    data: Annotated[Path, typer.Argument(help="A labelled data file, or a task file whose held_out is scored.")],
    metric: Annotated[str | None, typer.Option(help="Metric; default: the one the bundle was chosen by.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Score a bundle on rows it has not seen, with a confidence interval, per slice where slices are named.

    Example: tunewise evaluate runs/tickets-1/bundle fresh.csv
    """
    from tunewise.rescore import rescore

    found = rescore(
        bundle,
        data,
        metric=metric,
        device=device,
        overrides=overrides(set_ or [], allow_pickle=allow_pickle or None, trust_remote_code=trust_remote_code or None),
    )
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
        return
    from tunewise.report.sentences import points

    def line(score: dict[str, Any]) -> str:
        shown = points({"score": score["value"], "low": score["low"], "high": score["high"]}, score["metric"])
        return f"{shown}, n = {score['n']}"

    typer.echo(f"{found['score']['metric']}: {line(found['score'])}")
    for score in found["also"]:
        if score["metric"] != found["score"]["metric"]:
            typer.echo(f"{score['metric']}: {line(score)}")
    for part in found["slices"]:
        typer.echo(f"  {part['column']} = {part['value']}: {line(part['score'])}")
    for note in found["notes"]:
        typer.echo(note)
