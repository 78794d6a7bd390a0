"""`tunewise compare`: two finished runs, their verdicts, and what differs between their rungs."""

import json as json_module
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder, of the same labels and metric.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare two finished runs on held_out: the rungs they chose, and every rung both have.

    Example: tunewise compare runs/tickets-1 runs/tickets-2
    """
    from tunewise.compare import compare_runs

    found = compare_runs(first, second)
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False, allow_nan=False))
    elif sys.stdout.isatty():
        _show(found)
    else:
        for line in lines(found):
            typer.echo(line)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The comparison for a pipe: one sentence a line."""
    from tunewise.cli.view import one_line

    said = [*_above(found), *(f"{_names(each, found)}: {_words(each, found)}" for each in found["comparisons"])]
    return [one_line(line) for line in [*said, *(f"note: {note}" for note in found["notes"])]]


def _above(found: Mapping[str, Any]) -> list[str]:
    verdicts = [
        f"{which} run, {run['folder']}: {run['words']}"
        for which, run in zip(("first", "second"), found["runs"], strict=True)
    ]
    direction = "" if found["greater_is_better"] else ", lower is better"
    return [*verdicts, f"{found['metric']}{direction}; {found['pairing']['why']}. Differences: second minus first."]


def _names(each: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The two rungs, or the one; their base only where there are several."""
    ending = f" on {found['bases'][0]}" if len(found["bases"]) == 1 else ""
    names = dict.fromkeys(str(each[side]).removesuffix(ending) for side in ("first", "second"))
    return " and ".join(names) + (" (chosen)" if each["chosen"] else "")


def _words(each: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    from tunewise.report import sentences

    scores = [
        sentences.points({**each[side], "score": each[side]["value"]}, found["metric"])
        for side in ("first_score", "second_score")
    ]
    change = sentences.difference(each, found["metric"])
    return "; ".join([*scores, change, f"{sentences.p_value(each['p_adjusted'])} by Holm", each["finding"]])


def _cells(each: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """As few columns as a terminal has: the scores without their intervals."""
    from tunewise.report import sentences

    scores = [sentences.figure(each[side]["value"], found["metric"]) for side in ("first_score", "second_score")]
    p = sentences.p_value(each["p_adjusted"]).removeprefix("p ").removeprefix("= ")
    return [*scores, sentences.difference(each, found["metric"]), p, each["finding"]]


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tunewise.cli.view import one_line

    console = Console(highlight=False)
    for line in _above(found):
        console.print(Text(one_line(line)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("rungs", "first", "second", "difference", "p", "finding"):
        table.add_column(column)
    for each in found["comparisons"]:
        style = "bold" if each["chosen"] else ""
        table.add_row(*(Text(one_line(cell), style=style) for cell in (_names(each, found), *_cells(each, found))))
    console.print(table)
    for note in found["notes"]:
        console.print(Text(f"note: {one_line(note)}", style="dim"))
