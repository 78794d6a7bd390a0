"""WordNet's definitions; its examples are left out, since an evaluation set (words in context) is made of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from pretraining.documents import Pair

LICENSE = "WordNet"
PARTS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


def pairs(root: Path) -> Iterator[Pair]:
    """Words, with part of speech and definition; each synset gives its first word alone."""
    for name, part in PARTS.items():
        with (root / f"usr/share/wordnet/data.{name}").open(encoding="utf-8") as file:
            for line in file:
                data, bar, gloss = line.partition(" | ")
                if line.startswith("  ") or not bar:
                    continue
                word = re.sub(r"\(\w+\)$", "", data.split()[4]).replace("_", " ")
                definition = re.split(r'[;:]\s*"', gloss.strip())[0].rstrip("; ")
                if '"' not in definition and len(definition) >= 15:
                    fields = {"word": word, "part_of_speech": part}
                    yield Pair(
                        document=f"wordnet/{name}/{data[:8]}", task="definition", fields=fields, answer=definition
                    )
