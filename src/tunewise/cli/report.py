"""`tunewise report`: write a run's report again, with or without the texts of the data."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    texts: Annotated[bool, typer.Option("--texts/--no-texts", help="Whether texts of the data may be in it.")] = True,
) -> None:
    """Write report.html of a run.

    Example: tunewise report runs/tickets-1 --no-texts
    """
    from tunewise.report.build import build_report

    typer.echo(str(build_report(run, texts=texts)))
