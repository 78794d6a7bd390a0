import numpy as np
import pytest

from pretraining.dedup import Seen
from pretraining.words import numbers, stretches

WORDS = [f"word{i}" for i in range(200)]


def test_stretches_are_equal_where_their_words_are():
    left, right = (stretches(numbers(text), 3) for text in ("One, two three four", "zero ONE two_three five"))
    assert len(left) == 2
    assert [np.isin(each, right) for each in left] == [True, False]
    assert len(stretches(numbers("one two"), 3)) == 0


def test_order_of_words_counts():
    assert stretches(numbers("a b c"), 3) != stretches(numbers("c b a"), 3)


def test_signs_and_case_do_not_make_a_text_new():
    seen = Seen()
    assert seen.before("A shell, and its prompt.") is None
    assert seen.before("a shell and its PROMPT") == "exact"
    assert seen.before("A shell and no prompt.") is None


def test_a_text_with_a_few_other_words_is_near_and_one_with_many_is_new():
    seen = Seen()
    assert seen.before(" ".join(WORDS)) is None
    few = [*WORDS]
    few[50] = few[150] = "other"  # 10 of 196 stretches change: 186 of 206 in common
    assert seen.before(" ".join(few)) == "near"
    many = [word if i % 8 else f"other{i}" for i, word in enumerate(WORDS)]  # few stretches of five are left
    assert seen.before(" ".join(many)) is None


def test_a_signature_estimates_the_share_of_common_stretches():
    seen = Seen()
    shared = [f"s{i}" for i in range(304)]  # 300 stretches in common; with 100 more on each side, 300 of 500
    left = seen.signature(numbers(" ".join([*(f"l{i}" for i in range(100)), *shared])))
    right = seen.signature(numbers(" ".join([*(f"r{i}" for i in range(100)), *shared])))
    assert np.mean(left == right) == pytest.approx(0.6, abs=0.12)  # 128 permutations: two errors of 0.043 and more
