"""`tunewise prompt`: what a base is really told about a row, character by character and token by token."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.options import read_task
from tunewise.errors import ConfigError

RUNGS = ("zero_shot", "few_shot", "retrieval")

app = typer.Typer(help="Look at prompts.", no_args_is_help=True)


@app.callback()
def prompt() -> None:
    """Look at prompts."""


@app.command("show")
def show(
    task: Annotated[Path, typer.Argument(help="A task file (task.yaml) or a data file (tickets.csv).")],
    row: Annotated[str | None, typer.Option(help="Id of a row of train or dev; without it the first of dev.")] = None,
    rung: Annotated[
        str, typer.Option(help="zero_shot, few_shot or retrieval: whose default prompt is shown.")
    ] = "zero_shot",
    model: Annotated[list[str] | None, typer.Option(help="Base that reads the prompt.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other key of the task.")] = None,
) -> None:
    """Print the exact text that a base reads for a row, its tokens, and which of them are scored.

    Example: tunewise prompt show task.yaml --model ./my-llama --rung few_shot
    """
    if rung not in RUNGS:
        raise ConfigError(f"prompt show: `--rung` is one of {', '.join(RUNGS)}, got {rung!r}.")
    parsed = read_task(task, set_ or [], models=model)
    from tunewise.data.load import load_data
    from tunewise.methods import get_method
    from tunewise.methods.base import Context, Fold, default_of
    from tunewise.methods.writing import as_read
    from tunewise.models.asked import Asked
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.models.truncation import answering
    from tunewise.predictors.prompted import PromptedPredictor
    from tunewise.predictors.written import WrittenPredictor

    data = load_data(parsed)
    base = load_base(parsed.models[0], device="cpu", dtype="float32")
    if not isinstance(base, Asked):
        raise ConfigError(f"prompt show: {base.info.name} is of the family {base.info.family} and reads no prompts.")
    rows = {example.id: example for example in (*data.dev, *data.train)}
    if row is not None and row not in rows:
        raise ConfigError(f"prompt show: no row of train or dev has the id {row!r}. Rows without ids are numbered.")
    example = rows[row] if row is not None else data.dev[0]
    policy = answering(parsed.truncation)
    context = Context(
        task=dataclasses.replace(parsed, truncation=policy),
        labels=data.labels,
        base=base,
        folds=(Fold(train=data.train, race=()),),
        features=FeatureStore(base, policy, (), None),
        work=0,
        seed=parsed.seed,
        train_tokens=base.encode([each.texts for each in data.train], policy).tokens,
    )
    context, method = as_read(context), get_method(rung)
    bracket = method.open(context, [default_of(method, context)])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    assert isinstance(predictor, (PromptedPredictor, WrittenPredictor))
    text, tokens = predictor.laid_out(example)
    typer.echo(text)
    typer.echo("")
    typer.echo("place     id  scored  token")
    for place, token in enumerate(tokens):
        typer.echo(f"{place:>5} {token.id:>6}  {'yes' if token.scored else '':<6}  {token.piece!r}")
    scored = sum(token.scored for token in tokens)
    typer.echo(f"{len(tokens)} tokens, of which {scored} are scored; the base reads {base.info.max_tokens}.")
    if (lost := predictor.given.said(1)) is not None:
        typer.echo(lost)
