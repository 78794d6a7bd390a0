"""`tunewise runs`: the runs on this disk, their sizes, and how to delete one."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tunewise.errors import RunError
from tunewise.runs import Run, folder_bytes

app = typer.Typer(help="List runs with their sizes, or delete one.", no_args_is_help=True)
Root = Annotated[Path, typer.Option(help="Where the runs are.")]


@app.command("list")
def list_(root: Root = Path("runs")) -> None:
    """One line per run: folder, size, and its verdict or how to go on.

    Example: tunewise runs list
    """
    folders = sorted(path.parent for path in root.glob("*/ledger.sqlite"))
    for folder in folders:
        typer.echo(f"{folder}  {folder_bytes(folder) / 1e6:,.1f} MB  {_state(folder)}")
    if not folders:
        typer.echo(f"no runs in {root}")


@app.command("delete")
def delete(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a run that no process works in.

    Example: tunewise runs delete runs/tickets-1
    """
    with Run.open(folder):
        size = folder_bytes(folder)
    if not yes and not typer.confirm(f"Delete {folder} ({size / 1e6:,.1f} MB)?"):
        raise RunError(f"{folder}: kept.")
    shutil.rmtree(folder)
    typer.echo(f"deleted {folder} ({size / 1e6:,.1f} MB)")


def _state(folder: Path) -> str:
    try:
        return str(json.loads((folder / "verdict.json").read_text("utf-8"))["words"])
    except (OSError, ValueError, KeyError):
        return f"no verdict yet; continue with: tunewise fit --resume {folder}"
