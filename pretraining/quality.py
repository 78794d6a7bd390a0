"""Which passages are English text worth learning from; each rule has a name, under which what it dropped is counted."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import py3langid

from pretraining.documents import Document

# of Gopher's rules (Rae et al. 2021, appendix A1.1), those that fit documents with code in them
COMMON = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BOILERPLATE_DOCUMENTS = 10
BOILERPLATE_CHARACTERS = 40


def _short(text: str) -> bool:
    return len(text) < 150


def _few_letters(text: str) -> bool:
    solid = [c for c in text if not c.isspace()]
    return sum(c.isalpha() for c in solid) < 0.6 * len(solid)


def _odd_words(text: str) -> bool:
    words = re.findall(r"\S+", text)
    return not 3 <= sum(map(len, words)) / max(len(words), 1) <= 10


def _few_common_words(text: str) -> bool:
    return len(COMMON & set(re.findall(r"[a-z]+", text.lower()))) < 2


def _repeated_lines(text: str) -> bool:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return len(lines) > 10 and len(set(lines)) < 0.6 * len(lines)


def _damaged(text: str) -> bool:
    return text.count("\ufffd") > 1 or any(ord(c) < 32 and c not in "\n\t" for c in text)


def _not_english(text: str) -> bool:
    # letters alone: code and markup between the words say nothing about the language
    words = re.findall(r"[^\W\d_]+", text)
    language: str = py3langid.classify(" ".join(words))[0]
    return language != "en"


TEXT_RULES: dict[str, Callable[[str], bool]] = {
    "short": _short,
    "damaged": _damaged,
    "few letters": _few_letters,
    "odd words": _odd_words,
    "few common words": _few_common_words,
    "repeated lines": _repeated_lines,
    "not English": _not_english,
}
CODE_RULES: dict[str, Callable[[str], bool]] = {
    "short": _short,
    "damaged": _damaged,
    "repeated lines": _repeated_lines,
}


def fault(text: str, rules: dict[str, Callable[[str], bool]]) -> str | None:
    """The first rule that drops the text."""
    return next((name for name, breaks in rules.items() if breaks(text)), None)


def without_boilerplate(documents: Sequence[Document]) -> list[Document]:
    """A source's documents without the paragraphs that more than ten of them have; headings are too short to count."""
    seen = Counter(block for document in documents for block in set(document.text.split("\n\n")))
    often = {b for b, n in seen.items() if n > BOILERPLATE_DOCUMENTS and len(b) >= BOILERPLATE_CHARACTERS}
    return [
        replace(document, text="\n\n".join(block for block in document.text.split("\n\n") if block not in often))
        for document in documents
    ]
