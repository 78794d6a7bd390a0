"""Order and batches: every row once per epoch, like lengths together, a function of seed and epoch."""

import numpy as np
import pytest

from tunewise.models.encoder import Tokens
from tunewise.training.batches import Sizes, epoch_order, micro_batches, steps_per_epoch


def sizes_of(lengths, row_S=None):
    row_S = np.arange(len(lengths)) if row_S is None else np.array(row_S)
    ids = [np.zeros(length, dtype=np.int64) for length in lengths]
    return Sizes.of(Tokens(ids=ids, types=None, row_S=row_S, rows=int(row_S.max()) + 1))


@pytest.fixture
def sizes():
    return sizes_of(np.random.default_rng(0).integers(3, 60, size=1003))


def test_every_row_once_per_epoch(sizes):
    steps = epoch_order(sizes, batch_size=16, seed=1, epoch=0)
    assert len(steps) == steps_per_epoch(1003, 16) == 63
    assert sorted(np.concatenate(steps)) == list(range(1003))
    assert sorted(map(len, steps)) == [11] + [16] * 62


def test_same_seed_and_epoch_same_order(sizes):
    def flat(**names):
        return np.concatenate(epoch_order(sizes, batch_size=16, **names)).tolist()

    assert flat(seed=1, epoch=0) == flat(seed=1, epoch=0)
    assert flat(seed=1, epoch=0) != flat(seed=1, epoch=1)
    assert flat(seed=1, epoch=0) != flat(seed=2, epoch=0)


def test_hardly_any_padding(sizes):
    steps = epoch_order(sizes, batch_size=16, seed=1, epoch=0)
    padded = sum(len(rows) * sizes.longest_E[rows].max() for rows in steps)
    assert padded < 1.06 * sizes.tokens_E.sum()
    shuffled = np.random.default_rng(0).permutation(1003)
    plain = sum(len(rows) * sizes.longest_E[rows].max() for rows in (shuffled[i : i + 16] for i in range(0, 1003, 16)))
    assert plain > 1.5 * sizes.tokens_E.sum()


def test_steps_are_not_in_order_of_length(sizes):
    steps = epoch_order(sizes, batch_size=16, seed=1, epoch=0)
    means = [sizes.longest_E[rows].mean() for rows in steps]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_micro_batches_stay_within_the_budget(sizes):
    rows = epoch_order(sizes, batch_size=64, seed=1, epoch=0)[0]
    runs = list(micro_batches(sizes, rows, 300))
    assert [row for run in runs for row in run] == rows.tolist()
    assert len(runs) > 1
    assert all(len(run) == 1 or len(run) * sizes.longest_E[run].max() <= 300 for run in runs)


def test_a_row_with_several_sequences_counts_them_all():
    sizes = sizes_of([10, 10, 4, 7], row_S=[0, 0, 1, 2])
    assert sizes.sequences_E.tolist() == [2, 1, 1]
    assert sizes.longest_E.tolist() == [10, 4, 7]
    assert sizes.tokens_E.tolist() == [20, 4, 7]
    assert list(micro_batches(sizes, [0, 1, 2], 30)) == [[0, 1], [2]]
    assert list(micro_batches(sizes, [0, 1, 2], 5)) == [[0], [1], [2]]
