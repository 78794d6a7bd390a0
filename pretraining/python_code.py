"""Source with docstrings of installed packages, and pairs of a function and the sentence that says what it does."""

import ast
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from examples.code_summary.build import functions
from pretraining.documents import LONGEST_PASSAGE, Document, Pair

# Of the dependencies of this project, those whose own code is documented. Left out: what repeats the standard library
# (typing_extensions, six, setuptools, mypy's and pip's vendored parts) and what was written by a generator (plotly).
DISTRIBUTIONS = (
    "torch", "transformers", "numpy", "scipy", "scikit-learn", "pandas", "networkx", "sympy", "mpmath", "nltk",
    "peft", "accelerate", "datasets", "huggingface_hub", "sentence-transformers", "optuna", "SQLAlchemy", "alembic",
    "Jinja2", "Mako", "rich", "typer", "click", "pydantic", "hypothesis", "pytest", "fsspec", "joblib", "narwhals",
    "Pygments", "markdown-it-py", "packaging", "sacrebleu", "tqdm", "anyio", "lxml", "psutil", "regex", "safetensors",
)  # fmt: skip
SKIP = (
    "tests",
    "test",
    "testing",
    "_vendor",
    "vendor",
    "vendored",
    "_generated",
    "externals",
    "doctest",
    "conftest.py",
)
MEGABYTES = 1.5


def license_of(distribution: str) -> str:
    """As the distribution's own metadata state it."""
    about: Any = metadata.metadata(distribution)
    if stated := about.get("License-Expression"):
        return str(stated)
    classifiers = [c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    short = (about.get("License") or "").strip().splitlines()
    return " and ".join(classifiers) or (short[0] if short else "not stated")


def documents(distribution: str) -> Iterator[Document | Pair]:
    """The distribution's files, as their classes and functions with docstrings, and its functions with summaries."""
    for name, path in _files(distribution):
        try:
            source = path.read_text("utf-8")
            texts = list(_together(_documented(source)))
        except (UnicodeDecodeError, SyntaxError):
            continue
        for text in texts:
            yield Document(id=f"{distribution}/{name}", title=name, text=text)
        for each in functions(source):
            fields = {"code": each.code}
            yield Pair(document=f"{distribution}/{name}", task="code_summary", fields=fields, answer=each.summary)


def _files(distribution: str) -> list[tuple[str, Path]]:
    files = metadata.files(distribution) or []
    kept = [
        f for f in files if f.suffix == ".py" and not any(part in SKIP or part.startswith("test_") for part in f.parts)
    ]
    return sorted((str(file), Path(str(file.locate()))) for file in kept)


def _together(pieces: Iterator[str]) -> Iterator[str]:
    """Neighbours in a file, up to the length of a passage."""
    text = ""
    for piece in pieces:
        if text and len(text) + len(piece) + 3 > LONGEST_PASSAGE:
            yield text
            text = ""
        text += ("\n\n\n" if text else "") + piece
    if text:
        yield text


def _documented(source: str) -> Iterator[str]:
    """Functions and classes with a docstring; of a class that is too long for a passage, its methods."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        yield from _pieces(node, lines)


def _pieces(node: ast.stmt, lines: list[str]) -> Iterator[str]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    text = "\n".join(line.rstrip() for line in lines[start - 1 : node.end_lineno])
    if ast.get_docstring(node) and len(text) <= LONGEST_PASSAGE:
        yield _dedented(text)
    elif isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _pieces(inner, lines)


def _dedented(text: str) -> str:
    indent = len(text) - len(text.lstrip(" "))
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in text.split("\n"))
