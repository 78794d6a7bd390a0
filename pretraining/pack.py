"""Tokens on disk, and rows of them to learn from for each family: what a row is, is decided by seed, row and step.

    python -m pretraining.pack --corpus pretraining/build/corpus --tokenizer pretraining/build/tokenizer

Axes: N tokens of a stream, D documents, R, E rows, T positions of a row, L tokens before spans are hidden.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.corpus import ROOT, Text, read_texts
from pretraining.tokenizer import BOS, EOS, MASK, SENTINELS, SPECIAL, held_out_texts, load
from tunewise import seeding

Tokens = NDArray[np.int64]
IDS = {token: number for number, token in enumerate(SPECIAL)}
NOT_SAID = -100
CHAT_SHARE = 0.25
"""Of the tasks, those that are asked in a user's turn and answered in an assistant's."""


@dataclass(frozen=True)
class Shard:
    """Documents as tokens, each from its <s> to its </s>, and where a task's answer begins in it (0: no task)."""

    tokens_N: NDArray[np.uint16]
    start_D: Tokens
    answer_D: Tokens

    def __len__(self) -> int:
        return len(self.start_D) - 1

    def document(self, number: int) -> NDArray[np.uint16]:
        return self.tokens_N[self.start_D[number] : self.start_D[number + 1]]


def encode(tokenizer: Tokenizer, text: Text) -> tuple[list[int], int]:
    """The text's tokens with its ends, and where its answer begins; a task's answer is cut apart from its question."""
    if text.answer_at is None:
        return [IDS[BOS], *_ids(tokenizer, text.text), IDS[EOS]], 0
    question, answer = text.text[: text.answer_at], text.text[text.answer_at :]
    if _share(text.text) < CHAT_SHARE:
        before = [IDS[BOS], IDS["<|user|>"], *_ids(tokenizer, question), IDS[EOS], IDS["<|assistant|>"]]
        answer = answer.removeprefix(" ")  # an answer to a prompt goes on after a blank; a turn begins without
    else:
        before = [IDS[BOS], *_ids(tokenizer, question)]
    return [*before, *_ids(tokenizer, answer), IDS[EOS]], len(before)


def encode_apart(tokenizer: Tokenizer, text: Text) -> tuple[list[int], int]:
    """A task as an encoder reads its question and a decoder writes its answer: each a text of its own."""
    question, answer = text.text[: text.answer_at], text.text[text.answer_at :]
    before = [*_ids(tokenizer, question), IDS[EOS]]
    return [*before, *_ids(tokenizer, answer.removeprefix(" ")), IDS[EOS]], len(before)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def write(folder: Path, name: str, documents: Iterable[tuple[list[int], int]]) -> int:
    """`name.bin` with the tokens, `name.npz` with where documents and answers begin; returns how many tokens."""
    starts, answers = [0], []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.bin").open("wb") as file:
        for ids, answer_at in documents:
            file.write(np.asarray(ids, dtype="<u2").tobytes())
            starts.append(starts[-1] + len(ids))
            answers.append(answer_at)
    np.savez(folder / f"{name}.npz", start_D=np.array(starts, np.int64), answer_D=np.array(answers, np.int64))
    return starts[-1]


def read(folder: Path, name: str) -> Shard:
    """A part that `write` wrote; its tokens stay on disk until they are asked for."""
    with np.load(folder / f"{name}.npz") as where:
        start_D, answer_D = where["start_D"], where["answer_D"]
    tokens_N = np.memmap(folder / f"{name}.bin", dtype="<u2", mode="r")
    if len(tokens_N) != start_D[-1]:
        raise SystemExit(f"pretraining: {folder / name}.bin is cut short; run `python -m pretraining.pack` again.")
    return Shard(tokens_N, start_D, answer_D)


@dataclass(frozen=True)
class Item:
    """What is read, and what is to be said: at each position of it (-100: nothing), or by a decoder."""

    read_T: Tokens
    said_T: Tokens


class Stream:
    """Documents one after another in an order that the seed decides, cut into rows of one length."""

    def __init__(self, shard: Shard, which: Sequence[int] | None = None, *, length: int, seed: int) -> None:
        """`which`: of the shard's documents; None: all."""
        chosen_D = np.arange(len(shard)) if which is None else np.asarray(which)
        order_D = seeding.generator(seed, "documents").permutation(chosen_D)
        tokens_N = np.concatenate([np.empty(0, np.uint16), *(shard.document(int(i)) for i in order_D)])
        rows = len(tokens_N) // length
        if not rows:
            raise SystemExit(f"pretraining: {len(tokens_N)} tokens do not make a row of {length}.")
        self.tokens_RT = tokens_N[: rows * length].reshape(rows, length)
        """What is left over at the end, less than a row, is not learnt from."""


class Material(Protocol):
    """Rows to learn from; what is random about them comes from the generator that is given with each reading."""

    tokens_E: Tokens
    """What each row takes: tokens that are read and said."""
    said_E: Tokens
    """Tokens that each row learns from, whatever is drawn."""

    def item(self, row: int, rng: np.random.Generator) -> Item: ...


class NextTokens:
    """Every token is to be said from those before it; documents are told apart by the <s> between them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        rows, length = stream.tokens_RT.shape
        self.tokens_E, self.said_E = np.full(rows, length), np.full(rows, length - 1)

    def item(self, row: int, rng: np.random.Generator) -> Item:
        """Nothing is random; the first token is read alone."""
        ids_T = self._stream.tokens_RT[row].astype(np.int64)
        return Item(ids_T, np.append(ids_T[1:], NOT_SAID))


class MaskedTokens:
    """BERT's masking (Devlin et al. 2019, 3.1): of the chosen tokens 80 % are masked, 10 % are others, 10 % stay."""

    def __init__(self, stream: Stream, *, vocabulary: int, share: float = 0.15) -> None:
        self._stream, self._vocabulary, self._share = stream, vocabulary, share
        rows, length = stream.tokens_RT.shape
        self.tokens_E = np.full(rows, length)
        self.said_E = np.maximum(np.round(share * (stream.tokens_RT >= len(SPECIAL)).sum(axis=1)), 1).astype(np.int64)

    def item(self, row: int, rng: np.random.Generator) -> Item:
        """As many as `said_E` of the tokens that are no special ones."""
        ids_T = self._stream.tokens_RT[row].astype(np.int64)
        places = rng.choice(np.flatnonzero(ids_T >= len(SPECIAL)), size=int(self.said_E[row]), replace=False)
        fate = rng.random(len(places))
        other = rng.integers(len(SPECIAL), self._vocabulary, size=len(places))
        shown_T, said_T = ids_T.copy(), np.full_like(ids_T, NOT_SAID)
        shown_T[places] = np.where(fate < 0.8, IDS[MASK], np.where(fate < 0.9, other, ids_T[places]))
        said_T[places] = ids_T[places]
        return Item(shown_T, said_T)


@dataclass(frozen=True)
class Spans:
    """How many tokens of a text are hidden, in how many spans."""

    hidden: int
    spans: int

    @classmethod
    def of(cls, tokens: int, *, density: float = 0.15, mean: float = 3.0) -> "Spans":
        hidden = min(max(round(tokens * density), 1), tokens - 1)
        return cls(hidden, min(max(round(hidden / mean), 1), hidden, tokens - hidden))


def taken_for(length: int) -> int:
    """The most tokens whose rest, a sentinel for each span and </s> fit a row (Raffel et al. 2020, 3.1.4)."""
    taken = length
    while taken + 1 - (more := Spans.of(taken + 1)).hidden + more.spans + 1 <= length:
        taken += 1
    return taken


def corrupted(ids_L: Tokens, rng: np.random.Generator) -> Item:
    """The text with sentinels for its hidden spans, and the spans after their sentinels, each ended by </s>.

    Spans and what lies between them have random lengths, of which every division is as likely; a text begins unhidden.
    """
    spans = Spans.of(len(ids_L))
    if spans.spans > SENTINELS:
        raise ValueError(f"{len(ids_L)} tokens make {spans.spans} spans; there are {SENTINELS} sentinels")
    hidden = _division(spans.hidden, spans.spans, rng)
    kept = _division(len(ids_L) - spans.hidden, spans.spans, rng)
    inputs: list[int] = []
    targets: list[int] = []
    place = 0
    for number, (stay, hide) in enumerate(zip(kept, hidden, strict=True)):
        sentinel = IDS[f"<extra_id_{number}>"]
        inputs += [*ids_L[place : place + stay].tolist(), sentinel]
        targets += [sentinel, *ids_L[place + stay : place + stay + hide].tolist()]
        place += stay + hide
    return Item(np.array([*inputs, IDS[EOS]]), np.array([*targets, IDS[EOS]]))


def _division(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    cuts = np.sort(rng.choice(total - 1, size=parts - 1, replace=False)) + 1
    return [int(n) for n in np.diff(np.concatenate([[0], cuts, [total]]))]


class SpansAndQuestions:
    """Span corruption of a stream's rows, and after them tasks, of which those that do not fit are left out."""

    def __init__(self, stream: Stream, questions: Shard, *, length: int, answer_length: int) -> None:
        """The stream's rows have `taken_for(length)` tokens; `questions` are as `encode_apart` makes them."""
        self._stream, self._questions = stream, questions
        answer_D = np.diff(questions.start_D) - questions.answer_D
        self.fits = np.flatnonzero((questions.answer_D <= length) & (answer_D <= answer_length))
        rows, taken = stream.tokens_RT.shape
        spans = Spans.of(taken)
        said_E = np.concatenate([np.full(rows, spans.hidden + spans.spans + 1), answer_D[self.fits]])
        read_E = np.concatenate([np.full(rows, taken - spans.hidden + spans.spans + 1), questions.answer_D[self.fits]])
        self.said_E, self.tokens_E = said_E, read_E + said_E

    def item(self, row: int, rng: np.random.Generator) -> Item:
        rows = len(self._stream.tokens_RT)
        if row < rows:
            return corrupted(self._stream.tokens_RT[row].astype(np.int64), rng)
        index = int(self.fits[row - rows])
        ids, cut = self._questions.document(index).astype(np.int64), int(self._questions.answer_D[index])
        return Item(ids[:cut], ids[cut:])


def padded(rows: Sequence[Tokens], filling: int) -> Tokens:
    """Rows of one width."""
    width = max(map(len, rows))
    return np.stack([np.concatenate([row, np.full(width - len(row), filling)]) for row in rows])


def make(corpus: Path, tokenizer_folder: Path, out: Path) -> dict[str, Any]:
    """All parts as tokens; the manifest counts them by source."""
    tokenizer = load(tokenizer_folder)
    manifest: dict[str, Any] = {"tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(), "parts": {}}
    by_source: dict[str, int] = {}

    def counted() -> Iterator[tuple[list[int], int]]:
        for text in read_texts(corpus, "train"):
            ids, answer_at = encode(tokenizer, text)
            by_source[text.source] = by_source.get(text.source, 0) + len(ids)
            yield ids, answer_at

    manifest["parts"]["train"] = {"tokens": write(out, "train", counted()), "by_source": by_source}
    tasks = (encode_apart(tokenizer, text) for text in read_texts(corpus, "train") if text.answer_at is not None)
    manifest["parts"]["questions"] = {"tokens": write(out, "questions", tasks)}
    for name, texts in held_out_texts(corpus):
        encoded = (([IDS[BOS], *_ids(tokenizer, text), IDS[EOS]], 0) for text in texts)
        size = sum(len(text.encode()) for text in texts)
        manifest["parts"][name] = {"tokens": write(out, name, encoded), "documents": len(texts), "bytes": size}
    for each in sorted(out.glob("*.bin")):
        manifest["parts"][each.stem]["sha256"] = hashlib.sha256(each.read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "pretraining/build/corpus")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "pretraining/build/tokenizer")
    parser.add_argument("--out", type=Path, default=ROOT / "pretraining/build/tokens")
    given = parser.parse_args()
    print(json.dumps(make(given.corpus, given.tokenizer, given.out), indent=1))


if __name__ == "__main__":
    main()
