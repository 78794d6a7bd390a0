"""Pairs of a question and its answer, found in documents, and asked in several phrasings as the project asks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pretraining.documents import Document, Pair
from tunewise.prompts.prompt import Demonstration, Prompt, joined
from tunewise.prompts.row import Row

SHOWN = (0, 0, 0, 1, 2, 4)
"""How many pairs are shown before the one that is asked; drawn for each text."""
LONGEST_TEXT = 3000
LONGEST_QUOTED = 1200


@dataclass(frozen=True, kw_only=True)
class Phrasing:
    """A way to ask: what is read, under which names, what is said before and after it, and what is to be written."""

    reads: Mapping[str, str]
    """Field of the pair by the name that it gets in the prompt."""
    writes: str = "answer"
    instruction: str = ""
    lead: str = "\nAnswer:"


def _plain(field: str, *instructions: str, leads: Sequence[str] = ("\nAnswer:",)) -> list[Phrasing]:
    return [Phrasing(reads={field: field}, instruction=i, lead=lead) for i in instructions for lead in leads]


PHRASINGS: dict[str, list[Phrasing]] = {
    "code_summary": [
        *_plain("code", "What does this function do?", "Summarize the function in one sentence.",
                "Describe the code in a sentence.", ""),
        *_plain("code", "Summarize the code.", "", leads=("\nSummary:", "\nDocstring:")),
    ],
    "command": [
        *_plain("command", "What is this command for?", "Describe the command.", "What does the command do?"),
        *_plain("command", "", leads=("\nDescription:", ":")),
        Phrasing(reads={"description": "answer"}, writes="command", instruction="Name a command that does this."),
        Phrasing(reads={"description": "answer"}, writes="command", lead="\nCommand:"),
    ],
    "function": [
        *_plain("function", "What is this C function for?", "Describe the function."),
        *_plain("function", "", leads=("\nDescription:",)),
        Phrasing(reads={"description": "answer"}, writes="function", instruction="Name the function.",
                 lead="\nFunction:"),
    ],
    "definition": [
        *_plain("word", "What does the word mean?", "Define the word.", "Give a definition."),
        *_plain("word", "", leads=("\nDefinition:", " means")),
        Phrasing(reads={"word": "word", "part_of_speech": "part_of_speech"}, lead="\nDefinition:"),
        Phrasing(reads={"definition": "answer"}, writes="word", instruction="Which word is defined here?"),
        Phrasing(reads={"definition": "answer"}, writes="word", lead="\nWord:"),
        Phrasing(reads={"word": "word"}, writes="part_of_speech", instruction="Name the part of speech.",),
    ],
    "term": [
        *_plain("term", "What does this computing term mean?", "Explain the term.", "Define the term."),
        *_plain("term", "", leads=("\nMeaning:",)),
    ],
    "question": [
        *_plain("question", "Answer the question.", "Answer the question in a few sentences.", ""),
        Phrasing(reads={"question": "question"}, lead="\nA:"),
        Phrasing(reads={"answer": "answer"}, writes="question", instruction="Which question does this answer?",
                 lead="\nQuestion:"),
    ],
    "title": [
        *_plain("text", "Write a title for the text.", "Give the text a title.", "What is the title of this text?"),
        *_plain("text", "", leads=("\nTitle:",)),
        Phrasing(reads={"title": "answer"}, writes="text", instruction="Write the first paragraph.", lead="\nText:"),
        Phrasing(reads={"title": "answer"}, writes="text", lead="\nAbstract:"),
    ],
    "topic": [
        *_plain("text", "What is the text about?", "Name the topic of the text.",
                "Which subject does the text belong to?"),
        *_plain("text", "", leads=("\nTopic:", "\nThis text is about")),
    ],
}  # fmt: skip


def pairs_of(document: Document) -> Iterator[Pair]:
    """What can be asked about a page: its title, its topic, and the questions that it answers itself."""
    blocks = [block.strip() for block in document.text.split("\n\n") if block.strip()]
    prose = [block for block in blocks if _is_prose(block)]
    if document.title and 8 <= len(document.title) <= 100 and prose and " " in document.title:
        title = re.sub(r"^(Chapter |Appendix )?[A-Z]?[\d.]+\s+", "", document.title)
        yield Pair(document=document.id, task="title", fields={"text": prose[0]}, answer=title)
    if document.topic and prose:
        # of the middle, where a page is less likely to name itself
        text = prose[len(prose) // 2]
        yield Pair(document=document.id, task="topic", fields={"text": text}, answer=document.topic)
    for question, answer in pairwise(blocks):
        if re.fullmatch(r"[^\n]{10,140}\?", question) and _is_prose(answer) and not _is_prose(question):
            asked = re.sub(r"^(Q[:.]|[A-Z]?\d+(\.\d+)*\.?)\s+", "", question.lstrip("#* "))
            yield Pair(document=document.id, task="question", fields={"question": asked}, answer=answer)


def entry_pair(document: Document) -> Iterator[Pair]:
    """What a dictionary of computing says in its first paragraph."""
    told = document.text.split("\n\n")[1] if "\n\n" in document.text else ""
    told = re.sub(r"^(\d\. )?(<[^>]+> )?(/[^/]+/,? ?)?(\w+\.,? )*(\[[^\]]+\] )?", "", told)
    if 20 <= len(told) <= 400 and told.endswith("."):
        yield Pair(document=document.id, task="term", fields={"term": document.title}, answer=told)


def _is_prose(block: str) -> bool:
    return 80 <= len(block) <= LONGEST_QUOTED and block[0].isupper() and block[-1] in ".!" and "\n" not in block


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt with its answer; the answer begins at `answer_at`, with the space that stands before it."""

    document: str
    text: str
    answer_at: int


def asked(task: str, pairs: Sequence[Pair], rng: np.random.Generator) -> Iterator[Asked]:
    """Each pair once, asked or shown before another; pairs that stand in one prompt are of one task and phrasing."""
    order = [pairs[i] for i in rng.permutation(len(pairs))]
    while order:
        phrasing = PHRASINGS[task][rng.integers(len(PHRASINGS[task]))]
        count = int(rng.choice(SHOWN))
        taken = [order.pop() for _ in range(min(count + 1, len(order)))]
        while len(taken) > 1 and sum(_size(pair) for pair in taken) > LONGEST_TEXT:
            order.insert(0, taken.pop(0))  # is asked later
        yield _rendered(phrasing, taken)


def _size(pair: Pair) -> int:
    return len(pair.answer) + sum(map(len, pair.fields.values()))


def _rendered(phrasing: Phrasing, pairs: Sequence[Pair]) -> Asked:
    rows = [{**pair.fields, "answer": pair.answer} for pair in pairs]
    reads = [{name: row[field] for name, field in phrasing.reads.items()} for row in rows]
    shown = tuple(Demonstration(read, row[phrasing.writes]) for read, row in zip(reads[:-1], rows[:-1], strict=True))
    prompt = Prompt(instruction=phrasing.instruction, lead=phrasing.lead, demonstrations=shown)
    [parts] = prompt.parts([Row(pairs[-1].document, reads[-1])])
    text = joined(parts)
    return Asked(document=pairs[-1].document, text=text + prompt.answer(rows[-1][phrasing.writes]), answer_at=len(text))
