"""Books, speeches and stories of `shared/data/lm_text`; the PEPs are left out, and WikiText-2 is kept for measuring."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretraining.documents import Document, unwrapped

FOLDER = "lm_text"
WIKITEXT = "wikitext2_valid.raw"


@dataclass(frozen=True, kw_only=True)
class Book:
    """A file of plain text, and where its chapters begin."""

    file: str
    license: str
    topic: str
    parts: str = r"\n{4,}"
    """Between two documents; a whole book as one would be held out, or not, as a whole."""


BOOKS = (
    Book(file="bronte.txt", license="public domain", topic="novels", parts=r"\n(?=CHAPTER [IVXLC]+)"),
    Book(file="darwin.txt", license="public domain", topic="natural history", parts=r"\n(?=CHAPTER [IVXLC]+)"),
    Book(file="dubois.txt", license="public domain", topic="history"),
    Book(file="state_union.txt", license="public domain", topic="speeches", parts=r"\n(?=PRESIDENT [A-Z. ]+'S )"),
    Book(file="inaugural.txt", license="public domain", topic="speeches", parts=r"\n(?=Fellow[- ]Citizens)"),
    Book(file="genesis_web.txt", license="public domain", topic="scripture"),
    Book(file="tinyshakespeare.txt", license="public domain", topic="plays"),
    Book(file="rust_book.txt", license="MIT or Apache-2.0", topic="Rust", parts=r"\n(?=# )"),
    Book(file="tinystories_1000.json", license="CDLA-Sharing-1.0", topic="stories for children"),
)  # fmt: skip


def documents(book: Book, data: Path) -> Iterator[Document]:
    """The book's chapters, in their order."""
    path = data / FOLDER / book.file
    text = path.read_text("utf-8", errors="replace").replace("\r\n", "\n")
    parts = json.loads(text) if path.suffix == ".json" else re.split(book.parts, text)
    for number, part in enumerate(parts):
        if part.strip():
            yield Document(id=f"{book.file}/{number}", topic=book.topic, text=unwrapped(part.strip("\n")))


def wikitext(data: Path) -> Iterator[Document]:
    """The articles of WikiText-2's validation part, raw as they are published."""
    text = (data / FOLDER / WIKITEXT).read_text("utf-8")
    for number, article in enumerate(re.split(r"(?m)^(?= = [^=].* = $)", text)):
        if article.strip():
            yield Document(id=f"{WIKITEXT}/{number}", text=article)
