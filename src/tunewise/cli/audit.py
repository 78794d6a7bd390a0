"""`tunewise audit`: what is wrong with the data, before anything is spent on it."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import read_task
from tunewise.types import to_plain


def audit(
    task: Annotated[Path, typer.Argument(help="A task file (task.yaml) or a data file (tickets.csv).")],
    model: Annotated[list[str] | None, typer.Option(help="Base whose length limit counts.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per finding.")] = False,
) -> None:
    """Look for duplicates, contradicting labels, lengths, languages and other problems in the training data.

    Example: tunewise audit tickets.csv
    """
    import json as json_module

    parsed = read_task(task, set_ or [], models=model)
    from tunewise.data.audit import audit as audit_data
    from tunewise.data.load import load_data
    from tunewise.models.load import load_base

    data = load_data(parsed)
    base = load_base(parsed.models[0], device="cpu", dtype="float32")
    findings = audit_data(
        data,
        length_of=base.token_counts,
        max_tokens=base.info.max_tokens,
        answers_too=base.info.family == "causal",
    )
    if json:
        for finding in findings:
            typer.echo(json_module.dumps(to_plain(finding), ensure_ascii=False))
        return
    for note in data.notes:
        typer.echo(note)
    for finding in findings:
        ids = f" (rows {', '.join(finding.ids[:5])}{', ...' if len(finding.ids) > 5 else ''})" if finding.ids else ""
        typer.echo(f"{finding.severity:>8}  {finding.check}: {finding.sentence}{ids}")
