"""The front door is light, and it shows what it always showed."""

import importlib.util
import inspect
import subprocess
import sys

import pytest
import typer.main

import tunewise
from tunewise.cli import app

HEAVY = ("torch", "transformers", "sklearn", "scipy", "pyarrow", "plotly", "optuna", "peft", "datasets", "pandas")

OPTIONS = {
    "fit": {
        "task", "model", "minutes", "metric", "methods", "out", "resume", "like", "seed", "device", "dtype",
        "truncation", "allow_pickle", "trust_remote_code", "set_", "json", "quiet",
    },
    "plan": {"task", "model", "minutes", "set_", "json"},
    "audit": {"task", "model", "set_", "json"},
    "predict": {
        "bundle", "input_", "output", "device", "encoding", "abstain_below", "allow_pickle", "trust_remote_code",
    },
    "evaluate": {"bundle", "data", "metric", "device", "allow_pickle", "trust_remote_code", "set_", "json"},
    "compare": {"first", "second", "json"},
    "report": {"run", "texts"},
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_tunewise_loads_nothing_heavy() -> None:
    assert loaded_by("import tunewise").isdisjoint(HEAVY)


def test_the_help_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['tunewise', '--help']\nfrom tunewise.cli import app\napp(standalone_mode=False)"
    assert loaded_by(code).isdisjoint(HEAVY)


def test_every_exported_name_can_be_had() -> None:
    assert all(getattr(tunewise, name) is not None for name in tunewise.__all__)


def test_commands_have_the_options_they_promise() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {name: set(inspect.signature(c.callback).parameters) for name, c in commands.items() if name in OPTIONS}
    assert found == OPTIONS


def test_every_command_shows_an_example() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert all("Example: tunewise" in (commands[name].help or "") for name in OPTIONS)


@pytest.mark.parametrize("name", sorted(tunewise._LAZY))
def test_no_module_can_take_the_place_of_a_function_of_the_door(name: str) -> None:
    # importing a submodule puts it into the package under its own name, over whatever stood there
    assert importlib.util.find_spec(f"tunewise.{name}") is None
