"""Tokens on disk, and batches of them for each family: functions of (seed, step) alone, so that resuming is exact.

    python -m pretraining.pack --corpus pretraining/build/corpus --tokenizer pretraining/build/tokenizer

Axes: N tokens of a stream, D documents, R rows of a batch, T positions of a row, L tokens before spans are hidden.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.corpus import ROOT, Text, read_texts
from pretraining.tokenizer import BOS, EOS, MASK, PAD, SENTINELS, SPECIAL, held_out_texts, load
from tunewise import seeding

Tokens = NDArray[np.int64]
IDS = {token: number for number, token in enumerate(SPECIAL)}
NOT_TRAINED = -100
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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is read, and what is to be said at each position (-100: nothing)."""

    input_ids: Tokens
    labels: Tokens
    attention_mask: Tokens


class Stream:
    """Documents one after another in a new order every epoch, cut into rows of one length."""

    def __init__(self, shard: Shard, which: Sequence[int] | None = None, *, length: int, seed: int) -> None:
        self.length = length
        self._shard, self._seed = shard, seed
        self._which = np.arange(len(shard)) if which is None else np.asarray(which)
        tokens = int(sum(shard.start_D[i + 1] - shard.start_D[i] for i in self._which))
        self.rows = tokens // length
        if not self.rows:
            raise SystemExit(f"pretraining: {tokens} tokens do not make a row of {length}.")
        self._epoch = -1
        self._order_R = self._stream_N = np.empty(0, np.int64)

    def row(self, number: int) -> Tokens:
        """Row `number` since the start of training."""
        epoch, place = divmod(number, self.rows)
        if epoch != self._epoch:
            rng = seeding.generator(self._seed, "epoch", epoch)
            order_D = rng.permutation(self._which)
            self._stream_N = np.concatenate([self._shard.document(int(i)) for i in order_D]).astype(np.int64)
            self._order_R = rng.permutation(self.rows)
            self._epoch = epoch
        start = int(self._order_R[place]) * self.length
        return self._stream_N[start : start + self.length]

    def batch(self, step: int, rows: int) -> Tokens:
        """The rows of a step."""
        return np.stack([self.row(step * rows + i) for i in range(rows)])


def causal_batch(stream: Stream, step: int, rows: int) -> Batch:
    """Every token is to be said from those before it; documents are told apart by the <s> between them."""
    ids_RT = stream.batch(step, rows)
    return Batch(input_ids=ids_RT, labels=ids_RT.copy(), attention_mask=np.ones_like(ids_RT))


def masked_batch(stream: Stream, step: int, rows: int, *, vocabulary: int, seed: int, share: float = 0.15) -> Batch:
    """BERT's masking (Devlin et al. 2019, 3.1): of the chosen tokens 80 % are masked, 10 % are others, 10 % stay."""
    ids_RT = stream.batch(step, rows)
    rng = seeding.generator(seed, "mask", step)
    chosen_RT = (rng.random(ids_RT.shape) < share) & (ids_RT >= len(SPECIAL))
    fate_RT = rng.random(ids_RT.shape)
    other_RT = rng.integers(len(SPECIAL), vocabulary, size=ids_RT.shape)
    shown_RT = np.where(chosen_RT & (fate_RT < 0.8), IDS[MASK], ids_RT)
    shown_RT = np.where(chosen_RT & (fate_RT >= 0.8) & (fate_RT < 0.9), other_RT, shown_RT)
    labels_RT = np.where(chosen_RT, ids_RT, NOT_TRAINED)
    return Batch(input_ids=shown_RT, labels=labels_RT, attention_mask=np.ones_like(ids_RT))


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


def corrupted(ids_L: Tokens, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
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
    return np.array([*inputs, IDS[EOS]]), np.array([*targets, IDS[EOS]])


def _division(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    cuts = np.sort(rng.choice(total - 1, size=parts - 1, replace=False)) + 1
    return [int(n) for n in np.diff(np.concatenate([[0], cuts, [total]]))]


class Questions:
    """A shard of tasks as question and answer, in a new order every epoch; those that do not fit are left out."""

    def __init__(self, shard: Shard, *, length: int, answer_length: int, seed: int) -> None:
        self._shard, self._seed = shard, seed
        size_D = np.diff(shard.start_D)
        fits_D = (shard.answer_D <= length) & (size_D - shard.answer_D <= answer_length)
        self.which = np.flatnonzero(fits_D)
        if not len(self.which):
            raise SystemExit(f"pretraining: no task fits {length} tokens and an answer of {answer_length}.")

    def pair(self, number: int) -> tuple[Tokens, Tokens]:
        """Question number `number` since the start of training, and its answer."""
        epoch, place = divmod(number, len(self.which))
        order = seeding.generator(self._seed, "questions", epoch).permutation(self.which)
        index = int(order[place])
        ids, cut = self._shard.document(index).astype(np.int64), int(self._shard.answer_D[index])
        return ids[:cut], ids[cut:]


def seq2seq_batch(
    stream: Stream, questions: Questions, step: int, rows: int, *, length: int, seed: int, share: float = 0.25
) -> Batch:
    """Span corruption, and a share of rows that are tasks; the stream's rows have `taken_for(length)` tokens."""
    asked = round(rows * share)
    rng = seeding.generator(seed, "spans", step)
    pairs = [questions.pair(step * asked + i) for i in range(asked)]
    pairs += [corrupted(stream.row(step * (rows - asked) + i), rng) for i in range(rows - asked)]
    input_RT = _padded([each[0] for each in pairs], IDS[PAD], most=length)
    return Batch(
        input_ids=input_RT,
        labels=_padded([each[1] for each in pairs], NOT_TRAINED),
        attention_mask=(input_RT != IDS[PAD]).astype(np.int64),
    )


def _padded(rows: Sequence[Tokens], filling: int, most: int | None = None) -> Tokens:
    width = max(map(len, rows))
    assert most is None or width <= most, f"a row of {width} tokens where {most} fit"
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
