"""What training will take, before any of it is done."""

from dataclasses import dataclass

from tunewise.models.encoder import BaseInfo
from tunewise.training.loop import CPU_TOKENS, Plan
from tunewise.training.population import WORK_FORWARD

ACTIVATIONS_PER_LAYER = 34
"""Numbers kept for the backward pass per token, layer and hidden unit (Korthikanti et al. 2022, without attention)."""


@dataclass(frozen=True)
class Estimate:
    """Work in forward-equivalent tokens, and peak memory above the base's own."""

    work: int
    memory_bytes: int


def estimate(
    info: BaseInfo,
    plan: Plan,
    *,
    train_tokens: int,
    race_tokens: int,
    work_per_token: int,
    layers: float,
    kept_numbers: int,
    copied_numbers: int,
    bytes_per_number: int,
) -> Estimate:
    """What one candidate takes.

    `kept_numbers` are trained (five fp32 copies: value, gradient, two moments, best step); `copied_numbers` are held
    once more in the working precision of `bytes_per_number`; `layers` keep what the backward pass needs.
    """
    trained = round(plan.epochs * train_tokens * work_per_token) * plan.passes
    work = trained + plan.evaluations * race_tokens * WORK_FORWARD
    tokens = plan.tokens_per_pass or CPU_TOKENS
    activations = tokens * plan.passes * info.hidden_size * layers * ACTIVATIONS_PER_LAYER * bytes_per_number
    memory = kept_numbers * 5 * 4 + copied_numbers * bytes_per_number + round(activations)
    return Estimate(work, memory)
