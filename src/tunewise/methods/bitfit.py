"""Train nothing of the base but its biases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tunewise.adapters.bitfit import BitfitForm, BitfitStack, biased_layers
from tunewise.adapters.stack import Form
from tunewise.errors import ModelError
from tunewise.methods.base import Choice, Context, Parameters, Real
from tunewise.methods.stacked import StackedConfig, StackedMethod
from tunewise.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class BitfitConfig(StackedConfig):
    """How the biases are trained. Weight decay acts on the head alone: biases start where the base has them."""

    rung: ClassVar[str] = "bitfit"

    learning_rate: float = 3e-3
    """Biases want some ten times what the weights of the same base do."""


SEARCHED: Parameters = {
    "learning_rate": Real(3e-4, 1e-2, log=True),
    "batch_size": Choice((32, 16)),
}


class Bitfit(StackedMethod):
    r"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): the biases of the blocks, and a linear head.

    For linear layers and layer norms, $y = W_0 x + b$ and $y = g_0 \odot \frac{x - \mu}{\sigma} + b$ with $W_0, g_0$
    frozen and $b = b_0$ at the start; $b_0 = 0$ where the base has no bias. About a thousandth of the weights: hard to
    overfit, so it helps where rows are few; with many rows `lora` can do more.
    """

    name = "bitfit"
    Config = BitfitConfig
    parameters = SEARCHED

    def refuses(self, base: Encoder) -> str | None:
        try:
            biased_layers(base.model)
        except ModelError as error:
            return str(error)
        return None

    def stack(self, context: Context, configs: Sequence[BitfitConfig], model: nn.Module) -> BitfitStack:
        return BitfitStack(model, [config.member(context.seed) for config in configs], targets=biased_layers(model))

    def finished(
        self, context: Context, config: BitfitConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        return tensors, BitfitForm()
