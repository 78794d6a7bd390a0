"""All trainable numbers of P members as one buffer with a row per member, and every tensor as a view of it.

One row per member makes clipping, freezing, snapshots and the optimiser a handful of calls, however many layers there
are. Axes: P members, N trainable numbers of one member.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class Group:
    """How the optimiser treats a tensor."""

    decays: bool = True
    """Whether weight decay applies."""
    rate: float = 1.0
    """By how much the learning rate is multiplied."""


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a member's row."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape)


class Flat:
    """Values and gradients [P, N]; tensors that the optimiser treats alike stand together, as in `segments`."""

    def __init__(
        self, tensors: Mapping[str, Tensor], *, group: Callable[[str, Tensor], Group], dtype: torch.dtype | None = None
    ) -> None:
        """Copy `tensors` {name: [P, ...]} into one buffer; `group(name, tensor)` says how the optimiser treats each.

        `dtype`: of the buffer; None: that of the tensors.
        """
        groups = {name: group(name, tensor) for name, tensor in tensors.items()}
        slots, segments, start = [], [], 0
        for each in sorted(set(groups.values()), reverse=True):
            first = start
            for name in (name for name, own in groups.items() if own == each):
                slot = Slot(name, start, tuple(tensors[name].shape[1:]))
                slots.append(slot)
                start = slot.stop
            segments.append((first, start, each))
        self.slots = tuple(slots)
        self.segments = tuple(segments)
        """Columns (start, stop) of each group."""
        some = next(iter(tensors.values()))
        self.values_PN = torch.empty(some.shape[0], start, dtype=dtype or some.dtype, device=some.device)
        for slot in slots:
            self.values_PN[:, slot.start : slot.stop] = tensors[slot.name].detach().reshape(some.shape[0], -1)
        self._grads_PN: Tensor | None = None

    @property
    def size(self) -> int:
        return self.values_PN.shape[0]

    @property
    def numbers(self) -> int:
        """N."""
        return self.values_PN.shape[1]

    @property
    def grads_PN(self) -> Tensor:
        """Gradients, made when first asked for."""
        if self._grads_PN is None:
            self._grads_PN = torch.zeros_like(self.values_PN)
        return self._grads_PN

    def forget(self) -> None:
        """Set the gradients to zero."""
        if self._grads_PN is not None:
            self._grads_PN.zero_()

    def release(self) -> None:
        """Give back the memory of the gradients."""
        self._grads_PN = None

    def views(self, buffer_PN: Tensor) -> dict[str, Tensor]:
        """Tensors {name: [P, ...]} that share memory with a buffer laid out like the values."""
        return {
            slot.name: buffer_PN[:, slot.start : slot.stop].view(buffer_PN.shape[0], *slot.shape) for slot in self.slots
        }

    def leaves(self) -> dict[str, Tensor]:
        """Views of the values for autograd to differentiate by."""
        return {name: view.detach().requires_grad_() for name, view in self.views(self.values_PN).items()}

    def collect(self, leaves: Mapping[str, Tensor], *, fresh: bool) -> None:
        """Take the gradients that autograd left at `leaves` into the buffer: instead of what is there, or added to it.

        A leaf has the shape of its slot, with or without an axis of one member in front, in any precision.
        """
        for name, place in self.views(self.grads_PN).items():
            gradient = leaves[name].grad
            if gradient is not None:
                gradient = gradient.view(place.shape)
                place.copy_(gradient) if fresh else place.add_(gradient)
            elif fresh:
                place.zero_()
            leaves[name].grad = None

    def member(self, row_N: Tensor) -> dict[str, Tensor]:
        """Copies of one member's tensors, from its row."""
        return {slot.name: row_N[slot.start : slot.stop].view(slot.shape).clone() for slot in self.slots}

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all rows but these; leaves made before are stale."""
        self.values_PN = self.values_PN[list(indices)].clone()
        self._grads_PN = None
