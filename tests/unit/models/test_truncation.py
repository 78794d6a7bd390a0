"""What is kept of a row that is too long, on rows small enough to count by hand."""

import numpy as np
import pytest

from tunewise.errors import DataError
from tunewise.models.truncation import answering, kept_positions, refuse_if_many

#          [CLS] a  b  c  d  e  f [SEP]
SINGLE = np.array([-1, 0, 0, 0, 0, 0, 0, -1])
#          [CLS] a  b [SEP] p  q  r  s  t [SEP]
PAIR = np.array([-1, 0, 0, -1, 1, 1, 1, 1, 1, -1])


def kept(sequence: np.ndarray, limit: int, policy: str) -> list[list[int]]:
    return [positions.tolist() for positions in kept_positions(sequence, limit, policy)]


def test_a_row_that_fits_is_kept_whole() -> None:
    assert kept(SINGLE, 8, "keep_start") == [list(range(8))]


def test_keep_start_keeps_the_first_tokens_and_the_specials() -> None:
    assert kept(SINGLE, 5, "keep_start") == [[0, 1, 2, 3, 7]]


def test_keep_end_keeps_the_last_tokens_and_the_specials() -> None:
    assert kept(SINGLE, 5, "keep_end") == [[0, 4, 5, 6, 7]]


def test_chunks_cover_every_token_once_and_are_of_even_length() -> None:
    assert kept(SINGLE, 6, "chunk_and_pool") == [[0, 1, 2, 3, 7], [0, 4, 5, 6, 7]]


def test_of_a_pair_only_the_longer_text_is_cut() -> None:
    assert kept(PAIR, 8, "keep_start") == [[0, 1, 2, 3, 4, 5, 6, 9]]
    assert kept(PAIR, 8, "keep_end") == [[0, 1, 2, 3, 6, 7, 8, 9]]


def test_two_long_texts_share_the_room() -> None:
    assert kept(PAIR, 6, "keep_start") == [[0, 1, 2, 3, 4, 9]]
    long = np.array([-1, *[0] * 10, -1, *[1] * 10, -1])
    assert [len(np.flatnonzero(long[kept_positions(long, 13, "keep_start")[0]] == text)) for text in (0, 1)] == [5, 5]


def test_chunks_of_a_pair_repeat_the_first_text() -> None:
    assert kept(PAIR, 8, "chunk_and_pool") == [[0, 1, 2, 3, 4, 5, 6, 9], [0, 1, 2, 3, 7, 8, 9]]


def test_a_first_text_that_leaves_no_room_for_chunks_is_cut_with_the_second() -> None:
    long_first = np.array([-1, *[0] * 10, -1, 1, 1, 1, -1])
    assert len(kept(long_first, 9, "chunk_and_pool")) == 1


def test_specials_stay_even_where_nothing_else_fits() -> None:
    assert kept(PAIR, 2, "keep_start") == [[0, 3, 9]]


def test_refusal_begins_above_one_percent() -> None:
    refuse_if_many(1, 100, limit=64, base="x", name="train")
    with pytest.raises(DataError, match=r"train: 2 of 100 rows \(2\.0%\) are longer than the 64 tokens that x reads"):
        refuse_if_many(2, 100, limit=64, base="x", name="train")
    with pytest.raises(DataError, match="keep_start, keep_end or chunk_and_pool"):
        refuse_if_many(2, 100, limit=64, base="x", name="train")


def test_a_row_to_be_answered_is_never_refused() -> None:
    assert [answering(policy) for policy in ("refuse", "keep_end")] == ["keep_start", "keep_end"]
