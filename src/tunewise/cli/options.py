"""What several commands share: `--set` and the flags that stand for keys of the task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tunewise.config import Task, _StrictLoader
from tunewise.errors import ConfigError

AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that can run code.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")]


def overrides(settings: Sequence[str], **flags: Any) -> dict[str, Any]:
    """`--set key=value` pairs (values read as YAML) together with those flags that were given.

    Raises:
        ConfigError: a pair has no `=`, or its value is not YAML.
    """
    found = {name: value for name, value in flags.items() if value not in (None, [], ())}
    for pair in settings:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected key=value, for example budget.minutes=5, got {pair!r}.")
        try:
            found[key.strip()] = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not a plain value.") from error
    return found


def read_task(path: Path, settings: Sequence[str], **flags: Any) -> Task:
    """The task of a command: a task file or a data file, with overrides."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file. Name a task file (task.yaml) or a data file (tickets.csv).")
    return Task.from_file(path, overrides=overrides(settings, **flags))
