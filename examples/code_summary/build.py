"""Functions of Python's own standard library with the first sentence of their docstring, split by module."""

import argparse
import ast
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_bundled", "turtledemo", "__pycache__"}
SHARES = {"train": 0.6, "dev": 0.15, "held_out": 0.25}
LONGEST_CODE = 1200
LONGEST_SUMMARY = 120


@dataclass(frozen=True)
class Function:
    """A function without its docstring, and the sentence that the docstring began with."""

    name: str
    code: str
    summary: str


def functions(source: str) -> Iterator[Function]:
    """The functions and methods of a file that are short and say in a sentence what they do."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        summary = first_sentence(ast.get_docstring(node) or "")
        code = _without_docstring(node, lines)
        if summary and len(code) <= LONGEST_CODE:
            yield Function(node.name, code, summary)


def first_sentence(docstring: str) -> str:
    """The sentence on one line; empty where there is none, or where it is longer than a summary should be."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    match = re.match(r"([A-Z].*?[a-z)'\"`]\.)(?=\s+[A-Z(`'\"]|$)", paragraph)
    sentence = match[1] if match else ""
    return sentence if 15 <= len(sentence) <= LONGEST_SUMMARY and sentence.isascii() else ""


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    docstring = node.body[0]
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    kept = lines[start - 1 : docstring.lineno - 1] + lines[docstring.end_lineno or docstring.lineno : node.end_lineno]
    indent = len(kept[0]) - len(kept[0].lstrip())
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in kept if line.strip())


def module_files(library: Path) -> list[tuple[str, Path]]:
    """Dotted name and file of every module of the library, tests left out."""
    files = sorted(path for path in library.rglob("*.py") if not LEFT_OUT & set(path.relative_to(library).parts))
    return [(".".join(path.relative_to(library).with_suffix("").parts), path) for path in files]


def part_of(module: str) -> str:
    """Where a module's functions go; packages stay together, since their modules repeat each other."""
    package = module.split(".")[0]
    place = int.from_bytes(hashlib.sha256(package.encode()).digest()[:4], "big") / 2**32
    for part, share in SHARES.items():
        place -= share
        if place < 0:
            return part
    return "held_out"


def rows(library: Path, limit: int) -> Iterator[dict[str, str]]:
    """At most `limit` functions, chosen by their hash; of those that share a sentence or their code, the first."""
    found = {}
    for module, path in module_files(library):
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a few old modules are in another encoding
            continue
        for each in functions(text):
            key = hashlib.sha256(f"{module}.{each.name}\n{each.code}".encode()).hexdigest()
            found[key] = {"id": f"{module}.{each.name}-{key[:6]}", "module": module, **asdict(each)}
    seen: set[str] = set()
    kept = 0
    for key in sorted(found):
        row = found[key]
        if kept == limit or {row["summary"], row["code"]} & seen:
            continue
        seen |= {row["summary"], row["code"]}
        kept += 1
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    parts: dict[str, list[str]] = {part: [] for part in SHARES}
    for row in rows(Path(sysconfig.get_path("stdlib")), given.limit):
        parts[part_of(row["module"])].append(json.dumps(row, ensure_ascii=False))
    for part, lines in parts.items():
        (given.out / f"{part}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{part}: {len(lines)} functions")


if __name__ == "__main__":
    main()
