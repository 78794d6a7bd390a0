"""AdamW for every member of a population, each with its own rate and decay, on its row of the flat buffer.

Axes: P members, N trainable numbers of one member.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tunewise.training.flat import Flat

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def linear_schedule(step: int, *, horizon: int, warmup_share: float) -> float:
    """Share of the peak rate at optimiser step `step` (from 0): linear up over the warm-up, linear down to 0."""
    warmup = round(warmup_share * horizon)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (horizon - step) / max(1, horizon - warmup)


class MemberAdamW:
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019) with a parameter group per member; moments [P, N]."""

    def __init__(self, flat: Flat, weight_decay: Sequence[float]) -> None:
        self.flat = flat
        self.weight_decay = list(weight_decay)
        self.mean_PN = torch.zeros_like(flat.values_PN)
        self.square_PN = torch.zeros_like(flat.values_PN)
        self.steps = [0] * flat.size
        self._build()

    def _build(self) -> None:
        """Parameters and moments as views of the buffers; fused, one call updates all members."""
        groups, parts = [], []
        for member in range(self.flat.size):
            for start, stop, decay in self._parts(member):
                row = self.flat.values_PN[member, start:stop].detach().requires_grad_()
                groups.append({"params": [row], "lr": 0.0, "weight_decay": decay})
                parts.append((member, start, stop, row))
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
        self._rows = parts
        for member, start, stop, row in parts:
            self._adamw.state[row] = {
                "step": torch.tensor(float(self.steps[member]), device=row.device),
                "exp_avg": self.mean_PN[member, start:stop],
                "exp_avg_sq": self.square_PN[member, start:stop],
            }

    def _parts(self, member: int) -> list[tuple[int, int, float]]:
        parts = [(0, self.flat.decayed, self.weight_decay[member]), (self.flat.decayed, self.flat.numbers, 0.0)]
        return [(start, stop, decay) for start, stop, decay in parts if stop > start]

    def step(self, rates: Mapping[int, float]) -> None:
        """Update the members in `rates`, each at its rate; the others stay as they are."""
        for group, (member, start, stop, row) in zip(self._adamw.param_groups, self._rows, strict=True):
            group["lr"] = rates.get(member, 0.0)
            row.grad = self.flat.grads_PN[member, start:stop] if member in rates else None
        self._adamw.step()
        for member in rates:
            self.steps[member] += 1

    def keep(self, indices: Sequence[int]) -> None:
        """Follow `flat.keep(indices)`, which comes first."""
        self.mean_PN, self.square_PN = self.mean_PN[list(indices)].clone(), self.square_PN[list(indices)].clone()
        self.weight_decay = [self.weight_decay[i] for i in indices]
        self.steps = [self.steps[i] for i in indices]
        self._build()

    def state(self) -> dict[str, Tensor]:
        return {
            "mean_PN": self.mean_PN.clone(),
            "square_PN": self.square_PN.clone(),
            "steps_P": torch.tensor(self.steps, dtype=torch.int64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean_PN.copy_(state["mean_PN"])
        self.square_PN.copy_(state["square_PN"])
        self.steps = [int(step) for step in state["steps_P"]]
        self._build()


def clip(grads_PN: Tensor, limit: float) -> Tensor:
    """Norm of each member's gradient [P] before clipping; gradients above the limit are scaled down to it."""
    norm_P: Tensor = torch.linalg.vector_norm(grads_PN, dim=1)
    factor_P = limit / (norm_P + 1e-6)
    # a member whose norm is not finite is left alone: it is about to be stopped, and must not be turned into a number
    factor_P = torch.where(torch.isfinite(norm_P), factor_P.clamp(max=1.0), torch.ones_like(factor_P))
    if bool((factor_P < 1.0).any()):
        grads_PN.mul_(factor_P[:, None])
    return norm_P
