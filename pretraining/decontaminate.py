"""What the project measures on, so that nothing of it is learnt: stretches of thirteen words, as for GPT-3.

Brown et al. 2020, appendix C. Texts of 8 to 12 words count as a whole; shorter ones are too common to mean anything.
"""

import csv
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from examples.code_summary.build import functions, module_files
from pretraining.lm_text import FOLDER, WIKITEXT, wikitext
from pretraining.words import Hashes, numbers, stretches

LONG, SHORT = 13, 8
# of the folder of data sets, what is no evaluation set: texts to learn from, models, other tools' results
NOT_SETS = (FOLDER, "models", "peft_method_comparison")


class Overlap:
    """Finds the stretches of a text that some of the evaluation texts have."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[str, list[Hashes]]] = {n: {} for n in range(SHORT, LONG + 1)}
        self._sorted: dict[int, tuple[Hashes, list[str], Hashes]] | None = None

    def add(self, name: str, text: str) -> None:
        """Part of the evaluation set `name`: a field of a row."""
        words_W = numbers(text)
        if len(words_W) >= SHORT:
            n = min(len(words_W), LONG)
            self._by_length[n].setdefault(name, []).append(stretches(words_W, n))
            self._sorted = None

    def found(self, text: str) -> str | None:
        """The name of a set of which the text has a part."""
        if self._sorted is None:
            self._sorted = {n: self._index(n) for n in self._by_length}
        words_W = numbers(text)
        for n, (known, names, owner) in self._sorted.items():
            here_S = stretches(words_W, n)
            if len(known) and len(here_S):
                place_S = np.minimum(np.searchsorted(known, here_S), len(known) - 1)
                hits = np.flatnonzero(known[place_S] == here_S)
                if len(hits):
                    return names[int(owner[place_S[hits[0]]])]
        return None

    def sizes(self) -> dict[str, int]:
        """Stretches that are looked for, by set."""
        count: dict[str, int] = {}
        for by_name in self._by_length.values():
            for name, each in by_name.items():
                count[name] = count.get(name, 0) + sum(map(len, each))
        return dict(sorted(count.items()))

    def _index(self, n: int) -> tuple[Hashes, list[str], Hashes]:
        names = sorted(self._by_length[n])
        if not names:
            return np.empty(0, np.uint64), [], np.empty(0, np.uint64)
        parts = [np.unique(np.concatenate(self._by_length[n][name])) for name in names]
        owners = np.repeat(np.arange(len(names), dtype=np.uint64), [len(p) for p in parts])
        known, first = np.unique(np.concatenate(parts), return_index=True)
        return known, names, owners[first]


def evaluation_texts(data: Path, examples: Path, library: Path | None = None) -> Iterator[tuple[str, str]]:
    """Name and text of everything that the project is measured on.

    All data sets but the texts to learn from, WikiText-2, the example tasks, and Python's standard library, of whose
    functions `examples/code_summary` is made.
    """
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and path.name not in NOT_SETS):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != "README.md":
                yield from ((folder.name, text) for text in _texts(path))
    if (data / FOLDER / WIKITEXT).is_file():
        yield from (("wikitext2", document.text) for document in wikitext(data))
    for path in sorted(examples.rglob("*")):
        if path.suffix in (".csv", ".jsonl"):
            yield from ((f"examples/{path.parent.name}", text) for text in _texts(path))
    for _, path in module_files(library or Path(sysconfig.get_path("stdlib"))):
        source = path.read_bytes().decode("utf-8", "replace")
        yield "standard library", source
        try:
            yield from (("standard library", each.summary) for each in functions(source))
        except SyntaxError:  # files that are there to show one
            continue


def _texts(path: Path) -> Iterator[str]:
    text = path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".jsonl":
        for line in filter(str.strip, text.split("\n")):
            yield from _strings(json.loads(line))
    elif path.suffix == ".json":
        yield from _strings(json.loads(text))
    elif path.suffix in (".csv", ".tsv"):
        csv.field_size_limit(10**8)
        for row in csv.reader(text.splitlines(keepends=True), delimiter="\t" if path.suffix == ".tsv" else ","):
            yield from row
    else:
        yield from text.split("\n")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        if value and all(isinstance(each, str) for each in value):
            yield " ".join(value)  # words of a sentence
        for each in value:
            yield from _strings(each)
