"""`tunewise predict`: answer the rows of a file with a bundle."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import AllowPickle, TrustRemoteCode
from tunewise.errors import DataError


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    input_: Annotated[
        Path,
        typer.Option("--input", "-i", help="CSV, TSV, JSONL or Parquet with the task's columns, or conversations."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; default: standard output.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    encoding: Annotated[str, typer.Option(help="Of the input file.")] = "utf-8",
    abstain_below: Annotated[float, typer.Option(help="Mark answers whose probability is lower as abstained.")] = 0.0,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write one JSON object per row: id, label (or labels, or text), scores, abstained.

    Example: tunewise predict runs/tickets-1/bundle --input new.jsonl --output answers.jsonl
    """
    from tunewise.data.loaders import load_table
    from tunewise.data.rows import example_rows, question_rows
    from tunewise.door import load, predictions_as_rows
    from tunewise.runs import write_atomic

    if output is not None and output.exists() and not output.is_file():
        raise DataError(f"predict: {output} is not a file that can be written.")
    loaded = load(bundle, device=device, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if abstain_below > 0 and loaded.predictor.thresholds is not None:
        raise DataError(
            "predict: --abstain-below compares the probability of one label, and this bundle may give several. "
            "Read `scores` in the answers instead."
        )
    table = load_table(input_, encoding=encoding, delimiter=None, role="input")
    talks = loaded.manifest.extra.get("conversations")
    examples = question_rows(table) if talks else example_rows(table, loaded.manifest.columns)
    for note in table.notes:
        typer.echo(note, err=True)
    if cut := loaded.cut_rows(examples):
        typer.echo(f"{cut} of {len(examples)} rows are too long for the base; its policy was applied.", err=True)
    rows = predictions_as_rows([e.id for e in examples], loaded.predict(examples), loaded.manifest.kind)
    for row in rows:
        row["abstained"] = row["abstained"] or (
            "label" in row and row["scores"] is not None and row["scores"][row["label"]] < abstain_below
        )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomic(output, text)
