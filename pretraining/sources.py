"""The sources of the corpus by name: what each is made of, under which license, and how it is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pretraining import debian, lm_text, python_code, wordnet
from pretraining.documents import Document, Kind, Pair


@dataclass(frozen=True)
class Places:
    """Where sources are read from: the folder of data sets, and the cache of Debian's packages."""

    data: Path
    packages: debian.Unpacked


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents, and pairs that stand in them, of one kind and license."""

    name: str
    kind: Kind
    license: str
    read: Callable[[Places], Iterator[Document | Pair]]
    megabytes: float = 100.0
    dictionary: bool = False


def sources() -> list[Source]:
    """All of them; the order decides which of two equal texts stays."""
    return [
        *(_book(book) for book in lm_text.BOOKS),
        *(_package(package) for package in debian.PACKAGES),
        Source(name="man", kind="docs", license="GPL, BSD, MIT and others, by package", megabytes=9.0,
               read=lambda places: debian.manuals(places.packages)),
        Source(name="wordnet", kind="docs", license=wordnet.LICENSE,
               read=lambda places: wordnet.pairs(places.packages.root("wordnet-base"))),
        *(_distribution(name) for name in python_code.DISTRIBUTIONS),
    ]  # fmt: skip


def _book(book: lm_text.Book) -> Source:
    kind: Kind = "docs" if book.topic == "Rust" else "prose"
    name = f"lm_text/{Path(book.file).stem}"
    return Source(name=name, kind=kind, license=book.license, read=lambda places: lm_text.documents(book, places.data))


def _package(package: debian.Package) -> Source:
    return Source(
        name=f"debian/{package.name}",
        kind="prose" if package.name == "anarchism" else "docs",
        license=package.license,
        megabytes=package.megabytes,
        dictionary=package.name.startswith("dict-"),
        read=lambda places: debian.documents(package, places.packages),
    )


def _distribution(name: str) -> Source:
    return Source(
        name=f"python/{name}",
        kind="code",
        license=python_code.license_of(name),
        megabytes=python_code.MEGABYTES,
        read=lambda places: python_code.documents(name),
    )
