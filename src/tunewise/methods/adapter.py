"""Train small two-layer networks inside the blocks of the frozen base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tunewise.adapters.bottleneck import Activation, BottleneckForm, BottleneckStack, Placement, adapted_layers
from tunewise.adapters.stack import Form, Member
from tunewise.errors import ConfigError, ModelError
from tunewise.methods.base import Choice, Context, Parameters, Real
from tunewise.methods.stacked import StackedConfig, StackedMethod
from tunewise.methods.top_layers import TopLayersConfig
from tunewise.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(StackedConfig, TopLayersConfig):
    """Where the bottlenecks stand, how wide they are, and how they are trained."""

    rung: ClassVar[str] = "adapter"
    varies: ClassVar[frozenset[str]] = StackedConfig.varies | {"scale", "dropout"}

    learning_rate: float = 1e-3
    placement: Placement = "pfeiffer"
    """"houlsby": after attention and after the feed-forward part (Houlsby et al. 2019), twice the weights; "pfeiffer":
    after the feed-forward part (Pfeiffer et al. 2021); "parallel": beside the feed-forward part (He et al. 2022)."""
    size: int = 48
    """Width of the bottleneck."""
    activation: Activation = "relu"
    scale: float | None = None
    """What is added is multiplied by this; None: 4 for "parallel", as in its paper, and 1 for the others."""
    dropout: float = 0.0
    """Share of the bottleneck that is left out in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ConfigError(f"adapter: `size` must be 1 or more, got {self.size}. For no adapter use 'linear_probe'.")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ConfigError(f"adapter: `scale` must be a finite number above 0, got {self.scale}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapter: `dropout` must lie between 0 and 1 (1 not included), got {self.dropout}.")

    @property
    def form(self) -> BottleneckForm:
        usual = 4.0 if self.placement == "parallel" else 1.0
        return BottleneckForm(
            size=self.size,
            placement=self.placement,
            activation=self.activation,
            scale=usual if self.scale is None else self.scale,
            dropout=self.dropout,
        )

    def member(self, seed: int) -> Member:
        return Member(scale=self.form.scale, seed=seed, dropout=self.dropout)


SEARCHED: Parameters = {
    "learning_rate": Real(2e-4, 5e-3, log=True),
    "dropout": Choice((0.0, 0.1)),
    "batch_size": Choice((32, 16)),
    "placement": Choice(("pfeiffer", "houlsby", "parallel")),
    "size": Choice((48, 16, 128)),
}


class Adapter(StackedMethod):
    r"""Bottleneck adapters in every block, and a linear head.

    Houlsby et al. 2019 (arXiv 1902.00751), Pfeiffer et al. 2021 (arXiv 2005.00247), He et al. 2022 (arXiv 2110.04366):
    $h \leftarrow h + s \, (\phi(x W_{down} + b_{down}) W_{up} + b_{up})$ before the residual sum, with
    $W_{up}, b_{up} = 0$ at the start; $x = h$ after a part of a block, or what the part reads where it stands beside
    it. Unlike `lora` it cannot be merged into the base, but its $\phi$ can say what no update of the weights can: it
    helps where the task asks for something that the base has not learnt.
    """

    name = "adapter"
    Config = AdapterConfig
    parameters = SEARCHED

    def refuses(self, base: Encoder) -> str | None:
        try:
            adapted_layers(base.model, "houlsby")
        except ModelError as error:
            return str(error)
        return None

    def stack(self, context: Context, configs: Sequence[AdapterConfig], model: nn.Module) -> BottleneckStack:
        first = configs[0]
        return BottleneckStack(
            model,
            [config.member(context.seed) for config in configs],
            size=first.size,
            targets=adapted_layers(model, first.placement),
            placement=first.placement,
            activation=first.activation,
        )

    def finished(
        self, context: Context, config: AdapterConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        return tensors, config.form
