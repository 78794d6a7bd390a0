import numpy as np
import pytest

from pretraining.corpus import Text
from pretraining.pack import (
    IDS,
    NOT_TRAINED,
    Questions,
    Shard,
    Spans,
    Stream,
    causal_batch,
    corrupted,
    encode,
    encode_apart,
    masked_batch,
    read,
    seq2seq_batch,
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


def test_an_epoch_is_every_document_once_but_for_the_last_tokens():
    stream = Stream(shard([5, 9, 4, 7, 6]), length=4, seed=3)
    assert stream.rows == 7  # 31 tokens
    first, second = ([stream.row(epoch * 7 + i).tolist() for i in range(7)] for epoch in (0, 1))
    assert first != second
    for rows in (first, second):
        left = np.bincount(shard([5, 9, 4, 7, 6]).tokens_N, minlength=VOCABULARY)
        left -= np.bincount(np.ravel(rows), minlength=VOCABULARY)
        assert left.min() >= 0
        assert left.sum() == 3


def test_a_step_is_the_same_whatever_came_before_it():
    given = {"length": 8, "seed": 1}
    walked, fresh = Stream(shard([30] * 6), **given), Stream(shard([30] * 6), **given)
    batches = [masked_batch(walked, step, 4, vocabulary=VOCABULARY, seed=1) for step in range(13)]
    again = masked_batch(fresh, 12, 4, vocabulary=VOCABULARY, seed=1)
    assert (again.input_ids == batches[12].input_ids).all()
    assert (again.labels == batches[12].labels).all()
    assert not (batches[11].labels == batches[12].labels).all()


def test_a_causal_batch_says_what_it_reads():
    batch = causal_batch(Stream(shard([30] * 6), length=8, seed=1), 2, 4)
    assert batch.input_ids.shape == (4, 8)
    assert (batch.labels == batch.input_ids).all()
    assert batch.attention_mask.all()


def test_masking_hides_its_share_in_the_three_ways_and_no_special_token():
    stream = Stream(shard([500] * 100), length=500, seed=0)
    batch = masked_batch(stream, 0, 100, vocabulary=VOCABULARY, seed=0)
    whole = stream.batch(0, 100)
    chosen = batch.labels != NOT_TRAINED
    assert (batch.labels[chosen] == whole[chosen]).all()
    assert (batch.input_ids[~chosen] == whole[~chosen]).all()
    assert not chosen[whole < WORDS].any()
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    masked = batch.input_ids[chosen] == IDS["<mask>"]
    stayed = batch.input_ids[chosen] == whole[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert stayed.mean() == pytest.approx(0.1, abs=0.02)  # and one in 300 of those that became others
    assert batch.input_ids[chosen][~masked].min() >= WORDS


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
    inputs, targets = corrupted(text, np.random.default_rng(length))
    assert inputs[-1] == targets[-1] == IDS["</s>"]
    hidden: dict[int, list[int]] = {}
    for token in targets[:-1].tolist():
        if token < WORDS:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    assert list(hidden) == [IDS[f"<extra_id_{i}>"] for i in range(Spans.of(length).spans)]
    assert all(hidden.values())
    assert sum(map(len, hidden.values())) == Spans.of(length).hidden
    whole = [t for token in inputs[:-1].tolist() for t in (hidden[token] if token < WORDS else [token])]
    assert whole == text.tolist()


def test_where_spans_lie_is_drawn_evenly():
    rng = np.random.default_rng(0)
    begins = [int(np.argmax(corrupted(np.arange(WORDS, WORDS + 4), rng)[0] < WORDS)) for _ in range(300)]
    assert set(begins) == {3}  # one of four tokens is hidden; with one span, the last
    lengths = [np.argmax(corrupted(np.arange(WORDS, WORDS + 40), rng)[1][1:] < WORDS) for _ in range(2000)]
    # 6 tokens in 2 spans: the first has 1 to 5, each as often
    assert np.bincount(lengths, minlength=6)[1:] == pytest.approx(np.full(5, 400), abs=80)


def test_a_seq2seq_batch_has_its_share_of_questions():
    questions = Shard(np.array([90, 91, 2, 95, 2, 92, 2, 96, 97, 2], np.uint16), np.array([0, 5, 10]), np.array([3, 2]))
    asked = Questions(questions, length=8, answer_length=4, seed=0)
    stream = Stream(shard([40] * 5), length=taken_for(16), seed=0)
    batch = seq2seq_batch(stream, asked, 5, 8, length=16, seed=0)
    assert batch.input_ids.shape == (8, 16)
    rows = {tuple(r[m == 1]): tuple(a[a != NOT_TRAINED]) for r, m, a in
            zip(batch.input_ids[:2], batch.attention_mask, batch.labels, strict=False)}  # fmt: skip
    assert rows == {(90, 91, 2): (95, 2), (92, 2): (96, 97, 2)}
    assert (batch.input_ids[2:] == IDS["<extra_id_0>"]).sum(axis=1).tolist() == [1] * 6
    again = seq2seq_batch(Stream(shard([40] * 5), length=taken_for(16), seed=0), asked, 5, 8, length=16, seed=0)
    assert (again.labels == batch.labels).all()
    assert list(Questions(questions, length=2, answer_length=4, seed=0).which) == [1]


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
