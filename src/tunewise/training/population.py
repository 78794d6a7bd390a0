"""What the loop trains: P members that answer together, and a linear head for each of them where labels are learnt.

Axes: P members (A of them active), R rows of one member, S sequences, T positions, H hidden, L labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tunewise.models.encoder import Batch, Encoder
from tunewise.training.flat import Flat

WORK_FORWARD = 1
"""Forward-equivalent tokens of a token that is only read."""
WORK_ADAPTER = 2
"""Of a token trained on with the base frozen: forward, and the backward pass to the inputs."""
WORK_FULL = 3
"""Of a token trained on with every weight: the backward pass also computes the gradients of the weights."""

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"


@dataclass(frozen=True)
class Key:
    """What randomness inside a training pass comes from."""

    step: int
    sequence_S: np.ndarray
    """Numbers of the batch's sequences in the whole data set."""


@runtime_checkable
class Population(Protocol):
    """P members of one method on one base."""

    flat: Flat
    encoder: Encoder
    work_per_token: int

    @property
    def size(self) -> int: ...

    def trainable_parameters(self, member: int) -> int: ...

    def hidden(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        """Last hidden states [A * S, T, H], member after member; `key` is None where nothing is random (scoring)."""

    def logits(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        """What the heads make of them, [A, R, L]; only where there are heads."""

    def start_step(self) -> None:
        """Before the first backward pass of an optimiser step: forget the gradients of the last one."""

    def gather(self) -> None:
        """After a backward pass: see that `flat.grads_PN` holds its gradients, added to those of earlier passes."""

    def refresh(self) -> None:
        """After `flat.values_PN` changed: compute with the new values."""

    def release(self) -> None:
        """Give back memory that is needed only while training goes on."""

    def keep(self, indices: Sequence[int]) -> None: ...

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        """One member's tensors by name, in the form its predictor wants, from its row of the flat buffer."""


@dataclass(frozen=True, kw_only=True)
class HeadStart:
    """Where a head starts: at zero, or at given weights (a linear probe first, Kumar et al. 2022)."""

    labels: int
    weight_LH: np.ndarray | None = None
    bias_L: np.ndarray | None = None

    def tensors(self, members: int, hidden: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """`head.weight` [P, L, H] and `head.bias` [P, L]."""
        weight_LH = np.zeros((self.labels, hidden)) if self.weight_LH is None else self.weight_LH
        bias_L = np.zeros(self.labels) if self.bias_L is None else self.bias_L
        return {
            HEAD_WEIGHT: torch.as_tensor(weight_LH, dtype=dtype, device=device).repeat(members, 1, 1),
            HEAD_BIAS: torch.as_tensor(bias_L, dtype=dtype, device=device).repeat(members, 1),
        }


def head_logits(vector_ARH: Tensor, weight_ALH: Tensor, bias_AL: Tensor) -> Tensor:
    """[A, R, L], computed in the head's own precision."""
    return torch.baddbmm(bias_AL[:, None, :], vector_ARH.to(weight_ALH.dtype), weight_ALH.transpose(1, 2))


def repeated(batch: Batch, members: int) -> Batch:
    """The batch once per member, member after member."""
    if members == 1:
        return batch
    row_S = torch.as_tensor(batch.row_S)
    offset_P1 = torch.arange(members, device=row_S.device)[:, None] * batch.rows
    types_ST = batch.token_type_ids_ST
    return dataclasses.replace(
        batch,
        input_ids_ST=batch.input_ids_ST.repeat(members, 1),
        attention_mask_ST=batch.attention_mask_ST.repeat(members, 1),
        token_type_ids_ST=None if types_ST is None else types_ST.repeat(members, 1),
        answer_ids_SN=None if batch.answer_ids_SN is None else batch.answer_ids_SN.repeat(members, 1),
        row_S=(row_S[None] + offset_P1).flatten(),
        rows=batch.rows * members,
    )


def pooled(encoder: Encoder, batch: Batch, hidden_STH: Tensor, *, unit_length: bool) -> Tensor:
    """Vectors [rows, H] of a batch, scaled to length 1 where the head was made for that."""
    vector_RH = encoder.pool(hidden_STH, batch)
    return torch.nn.functional.normalize(vector_RH, dim=-1) if unit_length else vector_RH


def chosen(tensor: Tensor, active: Sequence[int]) -> Tensor:
    """The rows of the active members; the tensor itself where all are."""
    return tensor if len(active) == tensor.shape[0] else tensor[torch.tensor(list(active), device=tensor.device)]


def head_start(
    head: HeadStart | None, members: int, hidden: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of the members' heads; nothing where there are none."""
    return {} if head is None else head.tensors(members, hidden, dtype, device)


def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are not a head's."""
    return {name: tensor for name, tensor in tensors.items() if name not in (HEAD_WEIGHT, HEAD_BIAS)}


def split_head(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The other tensors, the head's weight and its bias."""
    return without_head(tensors), tensors[HEAD_WEIGHT], tensors[HEAD_BIAS]
