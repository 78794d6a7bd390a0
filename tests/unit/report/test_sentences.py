"""Numbers in words."""

import pytest

from tunewise.report import sentences


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.004, "< 0.1 s"), (0.42, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
        (72, "1 min 12 s"), (3599.7, "1 h"), (7500, "2 h 5 min"), (None, "-"), (float("nan"), "-"),
    ],
)  # fmt: skip
def test_seconds_are_said_as_people_say_them(value: float | None, words: str) -> None:
    assert sentences.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1536, "1.5 KB"),
        (23 << 20, "23 MB"),
        (1288 << 20, "1.3 GB"),
        (1023.9 * 1024, "1.0 MB"),
    ],
)
def test_bytes_count_in_powers_of_1024(value: float, words: str) -> None:
    assert sentences.size(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (999, "999"), (38_400, "38.4k"), (999_960, "1.0M"), (3e9, "3.0G")]
)
def test_counts_are_short(value: float, words: str) -> None:
    assert sentences.count(value) == words


def test_a_score_has_its_interval_and_its_unit() -> None:
    score = {"score": 0.9121, "low": 0.9012, "high": 0.9223}
    assert sentences.points(score, "macro_f1") == "91.2 % [90.1, 92.2]"
    assert sentences.points(score, "log_loss") == "0.912 [0.901, 0.922]"


def test_a_missing_score_is_never_a_number() -> None:
    assert sentences.points(None, "accuracy") == "no score"
    assert sentences.points({"score": float("nan"), "low": 0, "high": 1}, "accuracy") == "no score"


def test_a_flipped_difference_swaps_its_ends() -> None:
    versus = {"difference": -0.004, "low": -0.009, "high": 0.002}
    assert sentences.difference(versus, "accuracy") == "-0.4 [-0.9, +0.2]"
    assert sentences.difference(versus, "accuracy", flip=True) == "+0.4 [-0.2, +0.9]"


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert sentences.signed(-0.0001, "accuracy") == "0.0"


@pytest.mark.parametrize(("value", "words"), [(0.0004, "p < 0.001"), (0.031, "p = 0.031"), (None, "-")])
def test_p_values_are_never_zero(value: float | None, words: str) -> None:
    assert sentences.p_value(value) == words


def test_what_steers_a_terminal_is_made_visible() -> None:
    assert sentences.visible("a\x1b[31mb\x00\u202ec\ud800\td\n") == "a\ufffd[31mb\ufffd\ufffdc\ufffd\td\n"
