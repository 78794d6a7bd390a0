"""Token ids of a data set, one array per sequence, and the padded batches made from them.

S sequences (one per row; several for a row that was chunked), T padded tokens, R rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a base reads, with special tokens and without padding."""

    ids: list[np.ndarray]
    """One int64 vector per sequence; a row's sequences stand together, rows in order."""
    types: list[np.ndarray] | None
    """Token type ids, where the base has them."""
    row_S: np.ndarray
    """The row each sequence belongs to."""
    rows: int
    cut_rows: int = 0
    """Rows that lost tokens to the limit."""
    cut_tokens: int = 0
    lengths_S: np.ndarray = field(init=False)
    _start_R: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths_S", np.array([len(ids) for ids in self.ids], dtype=np.int64))
        object.__setattr__(self, "_start_R", np.searchsorted(self.row_S, np.arange(self.rows + 1)))

    @property
    def tokens(self) -> int:
        """Unpadded tokens of all sequences."""
        return int(self.lengths_S.sum())

    @property
    def lengths_R(self) -> np.ndarray:
        """Unpadded tokens of each row, over all its sequences."""
        return np.bincount(self.row_S, weights=self.lengths_S, minlength=self.rows).astype(np.int64)

    def sequences(self, row: int) -> range:
        """The sequences of a row."""
        return range(int(self._start_R[row]), int(self._start_R[row + 1]))

    def of_rows(self, indices: Sequence[int] | np.ndarray) -> "Tokens":
        """The tokens of these rows, in this order; what was cut is not counted again."""
        picks = [(new, s) for new, row in enumerate(indices) for s in self.sequences(int(row))]
        return Tokens(
            ids=[self.ids[s] for _, s in picks],
            types=None if self.types is None else [self.types[s] for _, s in picks],
            row_S=np.array([new for new, _ in picks], dtype=np.int64),
            rows=len(indices),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded tensors on the device; padding is at the end and masked out by position."""

    input_ids_ST: torch.Tensor
    attention_mask_ST: torch.Tensor
    token_type_ids_ST: torch.Tensor | None
    row_S: torch.Tensor
    """Row within this batch of each sequence."""
    rows: int
    answer_ids_SN: torch.Tensor | None = None
    """What the decoder of a base that has one reads of each sequence's answer; padding is at the end."""


def collate(
    tokens: Tokens, rows: Sequence[int] | np.ndarray, *, pad_id: int, device: torch.device, multiple: int = 1
) -> Batch:
    """All sequences of the given rows, padded to the longest (rounded up to a multiple)."""
    picks = [(new, s) for new, row in enumerate(rows) for s in tokens.sequences(int(row))]
    return pad(
        tokens,
        [s for _, s in picks],
        np.array([new for new, _ in picks], dtype=np.int64),
        rows=len(rows),
        pad_id=pad_id,
        device=device,
        multiple=multiple,
    )


def pad(
    tokens: Tokens,
    sequences: Sequence[int],
    row_S: np.ndarray,
    *,
    rows: int,
    pad_id: int,
    device: torch.device,
    multiple: int = 1,
) -> Batch:
    """A batch of these sequences, whichever rows they come from."""
    longest = max((len(tokens.ids[s]) for s in sequences), default=0)
    width = -(-longest // multiple) * multiple
    ids_ST = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask_ST = np.zeros((len(sequences), width), dtype=np.int64)
    types_ST = None if tokens.types is None else np.zeros((len(sequences), width), dtype=np.int64)
    for i, s in enumerate(sequences):
        length = len(tokens.ids[s])
        ids_ST[i, :length] = tokens.ids[s]
        mask_ST[i, :length] = 1
        if types_ST is not None and tokens.types is not None:
            types_ST[i, :length] = tokens.types[s]
    return Batch(
        input_ids_ST=torch.from_numpy(ids_ST).to(device),
        attention_mask_ST=torch.from_numpy(mask_ST).to(device),
        token_type_ids_ST=None if types_ST is None else torch.from_numpy(types_ST).to(device),
        row_S=torch.from_numpy(row_S).to(device),
        rows=rows,
    )


def by_length(lengths_S: np.ndarray, budget: int) -> list[np.ndarray]:
    """Indices in batches of similar length, longest first, each at most `budget` padded tokens (or one sequence)."""
    order_S = np.argsort(-lengths_S, kind="stable")
    batches, start = [], 0
    while start < len(order_S):
        size = max(1, budget // max(1, int(lengths_S[order_S[start]])))
        batches.append(order_S[start : start + size])
        start += size
    return batches
