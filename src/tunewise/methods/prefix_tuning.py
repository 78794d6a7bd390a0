"""Train keys and values in front of those of every layer of a frozen base, many candidates at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from tunewise.adapters.prefix import PrefixForm, PrefixStack, cache_dimensions, doubled, refusal
from tunewise.adapters.soft_prompt import TextMember
from tunewise.adapters.stack import Form
from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Choice, Context, Parameters, Real
from tunewise.methods.prompt_tuning import VirtualTokenConfig, VirtualTokens, drawn_rows, words_of
from tunewise.models.embed import FeatureStore
from tunewise.models.encoder import Encoder
from tunewise.models.seq2seq import AtAnswer, Seq2Seq
from tunewise.training.estimate import ACTIVATIONS_PER_LAYER
from tunewise.types import Cost

PrefixStart = Literal["text", "random"]


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokenConfig):
    """How a prefix starts and is trained."""

    rung: ClassVar[str] = "prefix_tuning"

    learning_rate: float = 0.01
    """About ten times what `lora` likes."""
    head_share: float = 0.1
    """The head's learning rate as a share of `learning_rate`, which is that of the prefix."""
    start: PrefixStart = "text"
    """"text": at keys and values of training rows, which is steadier than noise (Li and Liang 2021, section 7.4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("text", "random"):
            raise ConfigError(f"prefix_tuning: `start` is 'text' or 'random', got {self.start!r}.")


SEARCHED: Parameters = {
    "learning_rate": Real(1e-3, 3e-2, log=True),
    "start": Choice(("text", "random")),
    "batch_size": Choice((32, 16)),
    "length": Choice((16, 8, 32)),
}


class PrefixTuning(VirtualTokens):
    r"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190; for encoders Liu et al. 2022, arXiv 2110.07602), and a head.

    $\mathrm{softmax}(Q_l [P^K_l; K_l]^T / \sqrt{d}) [P^V_l; V_l]$ in every layer $l$, with $Q_l, K_l, V_l$ of the
    frozen base and $P^K_l, P^V_l \in R^{m \times h}$ trained. As in PEFT, the text's positions are counted after the
    prefix, and the two texts of a pair are not told apart by token types. On an encoder-decoder the layers are the
    decoder's, and a head reads what it has where an answer begins.
    """

    name = "prefix_tuning"
    Config = PrefixTuningConfig
    parameters = SEARCHED

    def refuses(self, base: Encoder) -> str | None:
        return super().refuses(base) or refusal(base.for_texts().model if isinstance(base, Seq2Seq) else base.model)

    def cost(self, context: Context, config: Any) -> Cost:
        return super().cost(_with_decoder(context), config)

    def kept_layers(self, context: Context, config: Any) -> float | None:
        if not isinstance(context.base.model, AtAnswer):
            return super().kept_layers(context, config)
        # nothing is trained below the decoder, whose layers keep a key and a value of each token
        layers, _, _ = cache_dimensions(context.base.model)
        return layers * 2 / ACTIVATIONS_PER_LAYER

    def shared_work(self, context: Context, configs: Sequence[PrefixTuningConfig]) -> int:
        """Where heads start at vectors that the run does not have, those of the decoder, train is read for them."""
        starts = any(config.head_init == "probe" for config in configs)
        return context.train_tokens if starts and isinstance(context.base.model, AtAnswer) else 0

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        return super().open(_with_decoder(context), configs)

    def stack(self, context: Context, configs: Sequence[PrefixTuningConfig], model: nn.Module) -> PrefixStack:
        first = configs[0]
        members = [
            TextMember(
                seed=context.seed,
                text=partial(start_tokens, context, config.length) if config.start == "text" else None,
            )
            for config in configs
        ]
        return PrefixStack(model, members, length=first.length, rate=first.token_rate)

    def finished(
        self, context: Context, config: PrefixTuningConfig, tensors: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Form]:
        layers, heads, _ = cache_dimensions(context.base.model)
        if not isinstance(context.base, Seq2Seq):
            return tensors, PrefixForm(layers=layers, heads=heads)
        return {"prefix": doubled(tensors["prefix"], layers)}, PrefixForm(
            layers=2 * layers, heads=heads, in_decoder=True
        )


def _with_decoder(context: Context) -> Context:
    """The context with a base that has the decoder too, where it has one; where there are labels, at their answer."""
    if not isinstance(context.base, Seq2Seq) or context.task.kind == "generate":
        return context
    base = context.base.at_answer()
    features = FeatureStore(base, context.task.truncation, context.fold.train, None)
    return dataclasses.replace(context, base=base, features=features)


def start_tokens(context: Context, length: int) -> list[int]:
    """Token ids that a prefix starts from: of training rows, one after another."""
    ids: list[int] = []
    for text in drawn_rows(context, "prefix_tuning", "text"):
        ids += words_of(context.base, text)
        if len(ids) >= length:
            break
    return ids
