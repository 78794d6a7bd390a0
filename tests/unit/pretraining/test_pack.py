import numpy as np
import pytest

from pretraining.corpus import Text
from pretraining.pack import (
    IDS,
    NOT_SAID,
    MaskedTokens,
    NextTokens,
    Shard,
    Spans,
    SpansAndQuestions,
    Stream,
    corrupted,
    encode,
    encode_apart,
    padded,
    read,
    taken_for,
    write,
)
from pretraining.tokenizer import SPECIAL, learn

WORDS = len(SPECIAL)
"""The first token that is no special one."""
VOCABULARY = WORDS + 300


def shard(sizes: list[int]) -> Shard:
    """Documents of so many tokens with their ends, each token another one."""
    rng = np.random.default_rng(0)
    documents = [[IDS["<s>"], *rng.integers(WORDS, VOCABULARY, size=n - 2).tolist(), IDS["</s>"]] for n in sizes]
    start = np.cumsum([0, *sizes])
    return Shard(np.concatenate(documents).astype(np.uint16), start, np.zeros(len(sizes), np.int64))


def test_what_was_written_is_read(tmp_path):
    assert write(tmp_path, "part", [([1, 70, 8191, 2], 0), ([1, 80, 2], 2)]) == 7
    found = read(tmp_path, "part")
    assert [found.document(i).tolist() for i in range(len(found))] == [[1, 70, 8191, 2], [1, 80, 2]]
    assert found.answer_D.tolist() == [0, 2]
    (tmp_path / "part.bin").write_bytes(b"1234")
    with pytest.raises(SystemExit, match="cut short"):
        read(tmp_path, "part")


def test_a_stream_is_every_document_once_but_for_the_last_tokens():
    documents = shard([5, 9, 4, 7, 6])
    rows = Stream(documents, length=4, seed=3).tokens_RT
    assert rows.shape == (7, 4)  # of 31 tokens
    left = np.bincount(documents.tokens_N, minlength=VOCABULARY) - np.bincount(rows.ravel(), minlength=VOCABULARY)
    assert left.min() >= 0
    assert left.sum() == 3
    assert (rows == Stream(documents, length=4, seed=3).tokens_RT).all()
    assert (rows != Stream(documents, length=4, seed=4).tokens_RT).any()
    assert set(Stream(documents, [2], length=2, seed=0).tokens_RT.ravel()) == set(documents.document(2))
    with pytest.raises(SystemExit, match="4 tokens do not make a row of 5"):
        Stream(documents, [2], length=5, seed=0)


def test_each_next_token_is_said_where_the_one_before_it_is_read():
    stream = Stream(shard([30] * 6), length=8, seed=1)
    rows = NextTokens(stream)
    item = rows.item(2, np.random.default_rng(0))
    assert item.read_T.tolist() == stream.tokens_RT[2].tolist()
    assert item.said_T.tolist() == [*stream.tokens_RT[2, 1:].tolist(), NOT_SAID]
    assert rows.said_E.tolist() == [7] * 22  # 180 tokens in rows of 8


def test_masking_hides_its_share_in_the_three_ways_and_no_special_token():
    stream = Stream(shard([50] * 1000), length=500, seed=0)
    rows = MaskedTokens(stream, vocabulary=VOCABULARY)
    items = [rows.item(row, np.random.default_rng(row)) for row in range(100)]
    read, said = (np.stack([getattr(item, name) for item in items]) for name in ("read_T", "said_T"))
    whole = stream.tokens_RT
    chosen = said != NOT_SAID
    assert (said[chosen] == whole[chosen]).all()
    assert (read[~chosen] == whole[~chosen]).all()
    assert not chosen[whole < WORDS].any()
    assert chosen.sum(axis=1).tolist() == rows.said_E.tolist() == [72] * 100  # 15 % of 480 that are no ends
    masked, stayed = read[chosen] == IDS["<mask>"], read[chosen] == whole[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert stayed.mean() == pytest.approx(0.1, abs=0.02)  # and one in 300 of those that became others
    assert read[chosen][~masked].min() >= WORDS


def test_what_is_drawn_depends_on_the_generator_alone():
    rows = MaskedTokens(Stream(shard([50] * 10), length=20, seed=0), vocabulary=VOCABULARY)
    one, same, other = (rows.item(3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one.read_T == same.read_T).all()
    assert not (one.said_T == other.said_T).all()


def test_spans_by_arithmetic():
    # 100 tokens: 15 hidden in 5 spans, so 85 + 5 sentinels + </s> are read
    assert Spans.of(100) == Spans(hidden=15, spans=5)
    assert Spans.of(2) == Spans(hidden=1, spans=1)
    assert taken_for(91) == 100
    taken = taken_for(512)
    assert taken - Spans.of(taken).hidden + Spans.of(taken).spans + 1 <= 512
    assert taken + 1 - Spans.of(taken + 1).hidden + Spans.of(taken + 1).spans + 1 > 512


@pytest.mark.parametrize("length", [2, 3, 10, 100, 568])
def test_a_corrupted_text_and_its_spans_make_the_text(length):
    text = np.arange(WORDS, WORDS + length)
    item = corrupted(text, np.random.default_rng(length))
    assert item.read_T[-1] == item.said_T[-1] == IDS["</s>"]
    hidden: dict[int, list[int]] = {}
    for token in item.said_T[:-1].tolist():
        if token < WORDS:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    assert list(hidden) == [IDS[f"<extra_id_{i}>"] for i in range(Spans.of(length).spans)]
    assert all(hidden.values())
    assert sum(map(len, hidden.values())) == Spans.of(length).hidden
    whole = [t for token in item.read_T[:-1].tolist() for t in (hidden[token] if token < WORDS else [token])]
    assert whole == text.tolist()


def test_where_spans_lie_is_drawn_evenly():
    rng = np.random.default_rng(0)
    begins = [int(np.argmax(corrupted(np.arange(WORDS, WORDS + 4), rng).read_T < WORDS)) for _ in range(300)]
    assert set(begins) == {3}  # one of four tokens is hidden; with one span, the last
    lengths = [np.argmax(corrupted(np.arange(WORDS, WORDS + 40), rng).said_T[1:] < WORDS) for _ in range(2000)]
    # 6 tokens in 2 spans: the first has 1 to 5, each as often
    assert np.bincount(lengths, minlength=6)[1:] == pytest.approx(np.full(5, 400), abs=80)


def test_questions_that_fit_stand_after_the_streams_rows():
    questions = Shard(np.array([90, 91, 2, 95, 2, 92, 2, 96, 97, 2], np.uint16), np.array([0, 5, 10]), np.array([3, 2]))
    stream = Stream(shard([40] * 5), length=taken_for(16), seed=0)
    rows = SpansAndQuestions(stream, questions, length=16, answer_length=3)
    count = len(stream.tokens_RT)
    items = [rows.item(row, np.random.default_rng(0)) for row in range(count + 2)]
    assert [(item.read_T.tolist(), item.said_T.tolist()) for item in items[count:]] == [
        ([90, 91, 2], [95, 2]),
        ([92, 2], [96, 97, 2]),
    ]
    assert {len(item.read_T) for item in items[:count]} == {16}
    assert rows.said_E.tolist() == [len(item.said_T) for item in items]
    assert rows.tokens_E.tolist() == [len(item.read_T) + len(item.said_T) for item in items]
    assert SpansAndQuestions(stream, questions, length=2, answer_length=3).fits.tolist() == [1]
    assert SpansAndQuestions(stream, questions, length=9, answer_length=2).fits.tolist() == [0]


def test_rows_become_one_width():
    assert padded([np.array([5, 6, 7]), np.array([8])], IDS["<pad>"]).tolist() == [[5, 6, 7], [8, 0, 0]]


def test_a_task_is_cut_where_its_answer_begins():
    tokenizer = learn(["what is it? it is a shell."] * 3, vocabulary=WORDS + 256 + 20)
    given = {"source": "s", "license": "l", "kind": "task", "document": "d"}
    found = set()
    for number in range(30):
        text = Text(text=f"What {number}?\nAnswer: it is", answer_at=len(f"What {number}?\nAnswer:"), **given)
        ids, cut = encode(tokenizer, text)
        before, answer = (tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:cut], ids[cut:]))
        chat = before.endswith("<|assistant|>")
        found.add(chat)
        ends = ("<s><|user|>", "</s><|assistant|>") if chat else ("<s>", "")
        assert before == f"{ends[0]}What {number}?\nAnswer:{ends[1]}"
        assert answer == ("it is</s>" if chat else " it is</s>")
        ids, cut = encode_apart(tokenizer, text)
        assert tokenizer.decode(ids[:cut], skip_special_tokens=False) == f"What {number}?\nAnswer:</s>"
        assert tokenizer.decode(ids[cut:], skip_special_tokens=False) == "it is</s>"
    assert found == {True, False}
    assert encode(tokenizer, Text(text="it is", **given))[1] == 0
