"""Train only the last blocks of a base: an option of several rungs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from tunewise.errors import ConfigError
from tunewise.methods.base import Context
from tunewise.methods.trained_config import TrainedConfig
from tunewise.models.encoder import Encoder
from tunewise.models.tokens import Tokens
from tunewise.models.tree import shared_tree
from tunewise.training.frozen import LowerBlocks
from tunewise.training.loop import Loop
from tunewise.types import Cost


@dataclass(frozen=True, kw_only=True)
class TopLayersConfig(TrainedConfig):
    """A candidate that may leave the lower blocks as they are."""

    top_layers: int | None = None
    """Train only so many of the last blocks (None: all). What the others make of a text is computed once and kept.

    Cheaper in every step, and a little worse where the task is far from what the base was trained for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_layers is not None and self.top_layers < 1:
            raise ConfigError(
                f"{self.rung}: `top_layers` must be 1 or more, got {self.top_layers}. "
                "To train no block use 'linear_probe'."
            )


def top_layers(config: TrainedConfig) -> int | None:
    """How many blocks are trained; None: all, also where the rung has no such option."""
    return config.top_layers if isinstance(config, TopLayersConfig) else None


def lower_blocks(base: Encoder, configs: Sequence[TrainedConfig], rows: Sequence[Tokens]) -> dict[int, LowerBlocks]:
    """By `top_layers`, what stands in for the blocks below, with the states of these rows."""
    wanted = sorted({top for top in map(top_layers, configs) if top is not None})
    return {top: LowerBlocks(base, top, rows) for top in wanted}


def on_share(loop: Loop, lower: LowerBlocks | None) -> Loop:
    """The loop, counting the work of the blocks that are computed."""
    loop.work_share = 1.0 if lower is None else lower.share
    return loop


def trained_tree(base: Encoder, config: TrainedConfig) -> nn.Module:
    """Modules of the base among which only the blocks that are trained are found."""
    top = top_layers(config)
    return base.model if top is None else LowerBlocks(base, top).attach(shared_tree(base.model))


def with_kept_states(cost: Cost, context: Context, config: TrainedConfig) -> Cost:
    """The cost where the states below the trained blocks are kept: less work, more memory."""
    top = top_layers(config)
    if top is None:
        return cost
    lower = LowerBlocks(context.base, top)
    tokens = context.train_tokens + context.race_tokens
    kept_bytes = lower.bytes_for(tokens)
    if kept_bytes is None:
        return cost
    work = round(cost.work * top / lower.blocks)
    return dataclasses.replace(
        cost, work=work, seconds=work * context.seconds_per_work, memory_bytes=cost.memory_bytes + kept_bytes
    )
