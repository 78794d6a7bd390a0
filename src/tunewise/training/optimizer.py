"""One optimiser of the PyTorch library for every member of a population, each with its own rate and decay.

Axes: P members, N trainable numbers of one member.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tunewise.training.flat import Flat, Group

OptimizerName = Literal["adamw", "rmsprop", "sgd", "adafactor"]
"""adamw (Loshchilov and Hutter 2019): what all priors here were found with. adafactor (Shazeer and Stern 2018): keeps a
row and a column per matrix, for weights that hardly fit. rmsprop (Hinton 2012): no momentum, for noisy small batches.
sgd, momentum 0.9: wants rates some hundred times higher; for well-scaled problems such as a head alone."""
ScheduleName = Literal["linear", "cosine", "constant"]
"""linear: to zero, the usual choice for runs of known length. cosine: stays high for longer. constant: where a run may
be stopped or prolonged at any time."""


def schedule(name: ScheduleName, step: int, *, horizon: int, warmup_share: float) -> float:
    """Share of the peak rate at optimiser step `step` (from 0): linear up over the warm-up, then as named."""
    warmup = round(warmup_share * horizon)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if name == "constant":
        return 1.0
    left = (horizon - step) / max(1, horizon - warmup)
    return left if name == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


class MemberOptimizer:
    """A parameter group per member and group of tensors, on views of the flat buffer."""

    def __init__(self, flat: Flat, weight_decay: Sequence[float], name: OptimizerName = "adamw") -> None:
        self.flat, self.name = flat, name
        self.weight_decay = list(weight_decay)
        self._build([{} for _ in range(flat.size)])

    def _build(self, state_P: Sequence[Mapping[int, dict[str, Tensor]]]) -> None:
        """Parameters over the present buffer, each with the state that is given by member and place."""
        self._parts: list[tuple[int, int, Tensor, Group]] = []
        groups: list[dict[str, Any]] = []
        state: dict[Tensor, dict[str, Tensor]] = {}
        for member in range(self.flat.size):
            for place, (start, stop, shape, group) in enumerate(self._places()):
                values = self.flat.values_PN[member, start:stop].view(shape).detach().requires_grad_()
                decay = self.weight_decay[member] if group.decays else 0.0
                groups.append({"params": [values], "lr": 0.0, "weight_decay": decay})
                self._parts.append((member, place, values, group))
                if place in state_P[member]:
                    state[values] = state_P[member][place]
        self._optimizer = _OPTIMIZERS[self.name](groups)
        self._optimizer.state.update(state)

    def _places(self) -> list[tuple[int, int, tuple[int, ...], Group]]:
        """Columns, shape and group of each parameter of a member: adafactor needs matrices, the others just rows."""
        segments = self.flat.segments
        if self.name != "adafactor":
            return [(start, stop, (stop - start,), group) for start, stop, group in segments]
        return [
            (slot.start, slot.stop, slot.shape, next(g for start, stop, g in segments if start <= slot.start < stop))
            for slot in self.flat.slots
        ]

    def step(self, rates: Mapping[int, float]) -> None:
        """Update the members in `rates`, each at its rate; the others stay as they are."""
        grads_PN, places = self.flat.grads_PN, self._places()
        for own, (member, place, values, group) in zip(self._optimizer.param_groups, self._parts, strict=True):
            start, stop, shape, _ = places[place]
            own["lr"] = rates.get(member, 0.0) * group.rate
            values.grad = grads_PN[member, start:stop].view(shape) if member in rates else None
        self._optimizer.step()
        for _, _, values, _ in self._parts:
            values.grad = None  # a view of the gradients would keep all of them from being released

    def keep(self, indices: Sequence[int]) -> None:
        """Follow `flat.keep(indices)`, which comes first."""
        state_P = self._by_member()
        self.weight_decay = [self.weight_decay[i] for i in indices]
        self._build([state_P[i] for i in indices])

    def _by_member(self) -> list[dict[int, dict[str, Tensor]]]:
        members = 1 + max(member for member, *_ in self._parts)
        state_P: list[dict[int, dict[str, Tensor]]] = [{} for _ in range(members)]
        for member, place, values, _ in self._parts:
            if values in self._optimizer.state:
                own = self._optimizer.state[values]
                state_P[member][place] = {key: tensor for key, tensor in own.items() if tensor is not None}
        return state_P

    def state(self) -> dict[str, Tensor]:
        """By "optimizer/<member>/<place>/<what>"."""
        return {
            f"optimizer/{member}/{place}/{key}": tensor
            for member, places in enumerate(self._by_member())
            for place, own in places.items()
            for key, tensor in own.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave; other names are left alone."""
        state_P: list[dict[int, dict[str, Tensor]]] = [{} for _ in range(self.flat.size)]
        for name, tensor in state.items():
            if name.startswith("optimizer/"):
                _, member, place, key = name.split("/")
                # fused AdamW counts its steps on the device, the others on the CPU
                moved = tensor.dim() > 0 or self.name == "adamw"
                own = tensor.to(self.flat.values_PN.device) if moved else tensor
                state_P[int(member)].setdefault(int(place), {})[key] = own.clone()
        self._build(state_P)


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _rmsprop(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, alpha=0.99, eps=1e-8)


def _sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9)


def _adafactor(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups)


_OPTIMIZERS = {"adamw": _adamw, "rmsprop": _rmsprop, "sgd": _sgd, "adafactor": _adafactor}


def clip(grads_PN: Tensor, limit: float) -> Tensor:
    """Norm of each member's gradient [P] before clipping; gradients above the limit are scaled down to it."""
    norm_P: Tensor = torch.linalg.vector_norm(grads_PN, dim=1)
    factor_P = limit / (norm_P + 1e-6)
    # a member whose norm is not finite is left alone: it is about to be stopped, and must not be turned into a number
    factor_P = torch.where(torch.isfinite(norm_P), factor_P.clamp(max=1.0), torch.ones_like(factor_P))
    if bool((factor_P < 1.0).any()):
        grads_PN.mul_(factor_P[:, None])
    return norm_P
