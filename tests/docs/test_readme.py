"""What the README shows runs, and says what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
"""Their Python runs in tests of their own."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the example data as tickets.csv, and a run that was finished."""
    folder = tmp_path_factory.mktemp("docs")
    tickets = ROOT / "examples" / "support_tickets" / "tickets.csv"
    (folder / "tickets.csv").write_bytes(tickets.read_bytes())
    (folder / "new.csv").write_text("text\nmy card was charged twice\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, workplace: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    if not code:
        return
    done = run("-c", code, folder=workplace)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_task_files_are_tasks(page: Path, tmp_path: Path) -> None:
    from tunewise.config import Task

    for i, text in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text, encoding="utf-8")
        assert Task.from_file(path).data.train == str(tmp_path / "tickets.csv")


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_exist_with_these_flags(page: Path) -> None:
    """Every `tunewise ...` line of a console block is accepted by the parser (its help is asked for instead)."""
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if not line.startswith("$ tunewise "):
                continue
            words = line.removeprefix("$ tunewise ").split("#")[0].split()
            command = words[:2] if words[0] in ("runs", "prompt") else words[:1]
            done = subprocess.run(
                [sys.executable, "-m", "tunewise", *command, "--help"], capture_output=True, text=True, check=False,
                env={**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            flags = [word.split("=")[0] for word in words if word.startswith("--")]
            assert all(flag in done.stdout for flag in flags), (line, done.stdout)


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, *EXAMPLES):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_measured_figures_are_those_of_the_result_files() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "summary.py")], capture_output=True, text=True, check=True
    )
    shown = (
        (ROOT / "README.md").read_text("utf-8").split("<!-- measured: begin -->\n")[1].split("<!-- measured: end")[0]
    )
    assert shown.strip() == done.stdout.strip()
