import pytest

from tunewise.training.rows import watched, watched_count


@pytest.mark.parametrize(("train", "rows"), [(0, 100), (16, 100), (1000, 125), (2400, 300), (60_000, 300)])
def test_reading_dev_follows_the_size_of_train(train: int, rows: int) -> None:
    assert watched_count(train) == rows


def test_the_same_rows_are_watched_whatever_their_order() -> None:
    digests = [f"{7919 * i % 1009:04d}" for i in range(50)]
    there = {digests[i] for i in watched(digests, 10)}
    back = {digests[::-1][i] for i in watched(digests[::-1], 10)}
    assert there == back == set(sorted(digests)[:10])
    assert watched(digests, 50) == list(range(50))
