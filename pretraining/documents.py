"""What sources give: documents, which are cut into passages, and pairs of a question and its answer."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prose", "docs", "code", "task"]
LONGEST_PASSAGE = 6000
HELD_OUT_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page, book, manual or definition in code, as text."""

    id: str
    text: str
    title: str = ""
    topic: str = ""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A part of a document that is learnt from, or set aside, as a whole."""

    document: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A question and its answer, found in a document; `task` says how it will be asked."""

    document: str
    task: str
    fields: Mapping[str, str]
    answer: str


def held_out(document: str) -> bool:
    """Whether a document, and all that was made of it, is kept out of training: by its name alone."""
    place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
    return place < HELD_OUT_SHARE


def passages(document: Document, longest: int = LONGEST_PASSAGE) -> Iterator[Passage]:
    """The document in pieces that end where paragraphs do; a paragraph that is too long is cut at its lines."""
    if len(document.text) <= longest:
        yield Passage(document=document.id, text=document.text)
        return
    piece: list[str] = []
    size = 0
    for block in _blocks(document.text, longest):
        if piece and size + len(block) > longest:
            yield Passage(document=document.id, text="\n\n".join(piece))
            piece, size = [], 0
        piece.append(block)
        size += len(block) + 2
    if piece:
        yield Passage(document=document.id, text="\n\n".join(piece))


def _blocks(text: str, longest: int) -> Iterator[str]:
    for block in re.split(r"\n{2,}", text.strip("\n")):
        rest = block
        while len(rest) > longest:
            cut = max(rest.rfind("\n", 1, longest), rest.rfind(". ", 1, longest) + 1)
            cut = cut if cut > 0 else longest
            yield rest[:cut]
            rest = rest[cut:].lstrip("\n ")
        if rest.strip():
            yield rest


def unwrapped(text: str) -> str:
    """Paragraphs that were wrapped at a column, on one line each; verse, lists and indented lines stay as they are."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(_joined(block) for block in blocks if block.strip())


def _joined(block: str) -> str:
    lines = block.strip("\n").split("\n")
    wrapped = all(len(line) > 45 for line in lines[:-1]) and not any(re.match(r"\s|[-*|#>+=\d]", s) for s in lines)
    return " ".join(line.strip() for line in lines) if wrapped else "\n".join(line.rstrip() for line in lines)
