"""What happens to a row that is too long for its base: positions to keep, by policy."""

import numpy as np

from tunewise.config import Truncation
from tunewise.errors import DataError

REFUSE_SHARE = 0.01


def answering(policy: Truncation) -> Truncation:
    """The policy for rows that are answered one by one.

    `refuse` is a decision about a data set, taken when it is read; the few rows it lets through keep their start, and a
    single row to be answered is treated as those were, whatever stands beside it.
    """
    return "keep_start" if policy == "refuse" else policy


def refuse_if_many(too_long: int, rows: int, *, limit: int, base: str, name: str) -> None:
    """Raises DataError when more than 1 % of the rows are too long for the base."""
    if rows and too_long > REFUSE_SHARE * rows:
        raise DataError(
            f"{name}: {too_long:,} of {rows:,} rows ({too_long / rows:.1%}) are longer than the {limit:,} tokens that "
            f"{base} reads; the truncation policy `refuse` allows {REFUSE_SHARE:.0%}. Set `truncation` to keep_start, "
            "keep_end or chunk_and_pool, shorten the texts, or use a base with a longer limit."
        )


def kept_positions(sequence_T: np.ndarray, limit: int, policy: Truncation) -> list[np.ndarray]:
    """Positions of each sequence made from one row; specials always stay.

    `sequence_T` says which text each token comes from: 0, 1, or -1 for special tokens.
    """
    special = np.flatnonzero(sequence_T < 0)
    first, second = np.flatnonzero(sequence_T == 0), np.flatnonzero(sequence_T == 1)
    room = max(0, limit - len(special))
    if len(first) + len(second) <= room:
        return [np.arange(len(sequence_T))]
    if policy == "chunk_and_pool":
        # the last text is cut into chunks; a first text that fills half the room leaves too little for that
        fixed, chunked = (first, second) if len(second) else (first[:0], first)
        space = room - len(fixed)
        if space >= max(1, room // 2):
            chunks = np.array_split(chunked, -(-len(chunked) // space))
            return [np.sort(np.concatenate([special, fixed, chunk])) for chunk in chunks]
    keep_first, keep_second = _shares(len(first), len(second), room)
    if policy == "keep_end":
        kept = [first[len(first) - keep_first :], second[len(second) - keep_second :]]
    else:
        kept = [first[:keep_first], second[:keep_second]]
    return [np.sort(np.concatenate([special, *kept]))]


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens each of two texts may keep: the longer one is cut until both are equally long."""
    half = room // 2
    if first <= half:
        return first, min(second, room - first)
    if second <= half:
        return min(first, room - second), second
    return room - half, half
