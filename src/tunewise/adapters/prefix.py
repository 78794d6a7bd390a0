"""Keys and values in front of every layer's own, stacked: P members share one base and one pass.

They go in through the base's own cache of keys and values; of an encoder with a decoder, through the decoder's, before
what it has of the answer so far.

Axes: P members (A of them active), N all rows of a call, M prefix positions, K heads of keys and values, D numbers of a
head, L layers, F pairs of keys and values in a file, T positions of the text, H = K D; W = L * 2 * H numbers of a
prefix position: layer by layer, keys and then values.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tunewise.adapters.soft_prompt import (
    SAVED,
    TextMember,
    begins,
    check_room,
    dimensions,
    mask_with,
    per_row,
    read_virtual_tokens,
)
from tunewise.adapters.stack import Member, Stack
from tunewise.errors import ModelError
from tunewise.seeding import derive

NOISE = 0.02
"""Standard deviation of a prefix that starts from noise."""


class PrefixStack(Stack):
    """P prefixes (Li and Liang 2021, arXiv 2101.00190) at every layer of one base (Liu et al. 2022, arXiv 2110.07602).

    Each is trained directly: the network that Li and Liang make it with helps on some tasks of understanding and hurts
    on others (Liu et al., section 3.3).
    """

    kind = "prefix_tuning"

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Member],
        *,
        length: int,
        rate: float = 1.0,
        pairs: Sequence[int] | None = None,
        of: int | None = None,
    ) -> None:
        """`length`: M; `rate` multiplies the learning rate of the prefixes.

        `pairs`: for each layer the number of its keys and values among those of a position, of which there are `of`
        (None: each layer has its own, in order).
        """
        self.model = model
        layers, self.heads, self.hidden = cache_dimensions(model)
        self.pairs = tuple(range(layers)) if pairs is None else tuple(pairs)
        self.held = layers if of is None else of
        self.reserved, self.multiplier = length, rate
        super().__init__(members, next(model.parameters()).device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`prefix` [M, W]."""
        return {"prefix": (self.reserved, self.held * 2 * self.hidden)}

    def initial(self, name: str, member: Member) -> Tensor:
        """What the frozen base itself computes for the member's text; without one, noise."""
        ids_1M = member.tokens(self.reserved) if isinstance(member, TextMember) else None
        if ids_1M is not None:
            return keys_and_values(self.model, ids_1M.to(self.device)).float()
        rng = torch.Generator().manual_seed(derive(member.seed, "prefix"))
        return torch.randn(*self.shapes()[name], generator=rng) * NOISE

    def decays(self, name: str) -> bool:
        """Never: a key of zero is not less of a key."""
        return False

    def rate(self, name: str) -> float:
        return self.multiplier

    def cache(self, rows: int, dtype: torch.dtype) -> Any:
        """A cache that holds the active members' prefixes for N rows; new each time, for a forward pass adds to it."""
        from transformers import DynamicCache

        prefix_AMW = self.active("prefix").to(dtype)
        parts = prefix_AMW.view(*prefix_AMW.shape[:2], self.held, 2, self.heads, self.hidden // self.heads)
        pairs_F2AKMD = parts.permute(2, 3, 0, 4, 1, 5)
        return DynamicCache(
            [(per_row(pairs_F2AKMD[i, 0], rows), per_row(pairs_F2AKMD[i, 1], rows)) for i in self.pairs]
        )

    def attach(self, model: nn.Module) -> nn.Module:
        """Of a base with encoder and decoder, the decoder has the prefix."""
        if _answers(model):
            model.decoder = _PrefixedDecoder(model.get_submodule("decoder"), self)
            return model
        return PrefixedModel(model, self)


class _Prefixed(nn.Module):
    """What has a stack of prefixes; it goes for its base."""

    def __init__(self, base: nn.Module, stack: PrefixStack) -> None:
        super().__init__()
        self.base, self.stack = base, stack
        self.dtype = next(base.parameters()).dtype

    @property
    def config(self) -> Any:
        return self.base.config


class PrefixedModel(_Prefixed):
    """A base whose every layer also attends to each member's prefix, for rows sorted by member."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        """The base's output, hidden states [N, T, H] of the text; token types are dropped, as in PEFT.

        Where a text is written, mask and positions are those of the text, and its cache begins with the prefix.
        """
        if position_ids is not None:
            options["position_ids"] = self.stack.reserved + position_ids
        if begins(past_key_values):
            own = self.stack.cache(len(input_ids), self.dtype)
            past_key_values = own if past_key_values is None else _put_into(past_key_values, own)
        return self.base(
            input_ids=input_ids,
            attention_mask=mask_with(self.stack.reserved, input_ids, attention_mask),
            past_key_values=past_key_values,
            **options,
        )


class _PrefixedDecoder(_Prefixed):
    """A decoder whose every layer also attends to each member's prefix; positions are counted after it."""

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **options: Any) -> Any:
        """The decoder's output, hidden states [N, T, H] of its tokens; a cache that is empty begins with the prefix."""
        from transformers import DynamicCache, EncoderDecoderCache

        if begins(past_key_values):
            own = self.stack.cache(len(input_ids), self.dtype)
            if past_key_values is None:
                past_key_values = EncoderDecoderCache(own, DynamicCache())
            else:
                _put_into(past_key_values.self_attention_cache, own)
        return self.base(input_ids=input_ids, past_key_values=past_key_values, **options)


def _answers(model: nn.Module) -> bool:
    """Whether it is an encoder with a decoder that answers."""
    return hasattr(model, "encoder") and hasattr(model, "decoder")


def _put_into(cache: Any, prefix: Any) -> Any:
    """The empty cache, now holding what the other one holds."""
    for number, layer in enumerate(prefix.layers):
        cache.update(layer.keys, layer.values, number)
    return cache


def cache_dimensions(model: nn.Module) -> tuple[int, int, int]:
    """Layers, heads of keys and values (several heads of queries may share one), and numbers of a position's keys.

    Of a base with encoder and decoder, those of the decoder's attention to itself.
    """
    layers, heads, hidden = dimensions(model)
    config: Any = model.config
    if _answers(model):
        config = model.get_submodule("decoder").config
        layers = getattr(config, "decoder_layers", None) or int(config.num_hidden_layers)
        heads = getattr(config, "decoder_attention_heads", None) or int(config.num_attention_heads)
    own = getattr(config, "num_key_value_heads", None) or heads
    return layers, own, own * (getattr(config, "head_dim", None) or hidden // heads)


def keys_and_values(model: nn.Module, ids_1M: Tensor) -> Tensor:
    """[M, W]: what the base's layers compute for one sequence, read back from an empty cache that it fills.

    An encoder with a decoder reads the sequence with both.
    """
    tensors, _ = _read(model, ids_1M)
    return torch.cat([tensor_1KMD[0].transpose(0, 1).flatten(1) for tensor_1KMD in tensors], dim=1)


def refusal(model: nn.Module) -> str | None:
    """Why no prefix can be put into this base, or None; found by trying."""
    why = None
    if not _answers(model) and "past_key_values" not in inspect.signature(model.forward).parameters:
        why = "it takes no `past_key_values`"
    else:
        layers, heads, hidden = cache_dimensions(model)
        ids_1M = torch.arange(3, device=next(model.parameters()).device)[None]
        try:
            tensors, alone_1MH = _read(model, ids_1M)
            if [tuple(tensor.shape) for tensor in tensors] != [(1, heads, 3, hidden // heads)] * (2 * layers):
                why = "it does not keep them in its cache"
            elif torch.allclose(_read(model, ids_1M, tensors)[1], alone_1MH):
                why = "it does not attend to its cache"
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            why = f"it fails with a cache ({error})"
    if why is None:
        return None
    return (
        f"prefix_tuning: no keys and values can be put in front of the layers of {type(model).__name__}: {why}. "
        "Use 'prompt_tuning' or 'lora'."
    )


@torch.no_grad()
def _read(model: nn.Module, ids_1M: Tensor, before: Sequence[Tensor] = ()) -> tuple[list[Tensor], Tensor]:
    """Keys and values [1, K, M, D] of every layer in turn, after those `before`, and hidden states [1, M, H]."""
    from transformers import DynamicCache, EncoderDecoderCache

    cache: Any = DynamicCache(list(zip(before[::2], before[1::2], strict=True)))
    if _answers(model):
        pair: Any = model
        encoded_1MH, mask_1M = pair.encode(ids_1M, torch.ones_like(ids_1M))
        both = EncoderDecoderCache(cache, DynamicCache())
        hidden_1MH = pair.decode(ids_1M, encoded=encoded_1MH, mask=mask_1M, cache=both)
    else:
        mask_1M = mask_with(before[0].shape[2] if before else 0, ids_1M, None)
        hidden_1MH = model(input_ids=ids_1M, attention_mask=mask_1M, past_key_values=cache).last_hidden_state
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)], hidden_1MH


@dataclass(frozen=True, kw_only=True)
class PrefixForm:
    """A prefix as PEFT's PREFIX_TUNING, and how its rows divide into layers and heads.

    Of an encoder-decoder, PEFT lays the F pairs of keys and values of a position twice one after the other, takes them
    two by two, and gives the first of each two to the decoder: layer i has pair 2 i mod F. With as many pairs as
    layers, half of an even number would stay unused and the rest serve two layers each. With twice as many (`doubled`)
    every layer has its own.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    layers: int
    """Pairs of keys and values in a position: with a decoder, F."""
    heads: int
    in_decoder: bool = False
    """Whether it stands before the keys and values of a decoder that answers, and not of a base that reads."""

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> PrefixStack:
        prefix_MW = tensors["prefix"]
        layers, heads, hidden = cache_dimensions(model)
        own, expected = (self.layers, self.heads, prefix_MW.shape[1] // (2 * self.layers)), (layers, heads, hidden)
        if self.in_decoder != _answers(model):
            raise ModelError(
                f"prefix_tuning: the prefix was made for {_WHERE[self.in_decoder]}, and this base is "
                f"{_WHERE[not self.in_decoder]}. The adapter was made for another base."
            )
        if own != expected and not (self.in_decoder and own == (2 * layers, heads, hidden)):
            raise ModelError(
                f"prefix_tuning: the prefix should be for {_words(expected)}, found one for {_words(own)}. "
                "The adapter was made for another base."
            )
        check_room(model, len(prefix_MW), PrefixStack.kind)
        pairs = [2 * i % self.layers for i in range(layers)] if self.in_decoder else None
        return PrefixStack(model, [Member()], length=len(prefix_MW), pairs=pairs, of=self.layers)

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        length, width = tensors["prefix"].shape
        return {
            "num_attention_heads": self.heads,
            "num_layers": self.layers,
            "num_transformer_submodules": 2 if self.in_decoder else 1,
            "num_virtual_tokens": length,
            "prefix_projection": False,
            "token_dim": width // (2 * self.layers),
        }

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {SAVED: tensors["prefix"]}

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        """As `Form.from_disk`; of a prefix made by a network PEFT saves what the network made, which is read too."""
        prefix_MW = read_virtual_tokens(config, stored, transformers=(1, 2))
        stated: list[Any] = [config.get(key) for key in ("num_layers", "num_attention_heads", "token_dim")]
        layers, heads, width = stated
        if not all(isinstance(count, int) and count > 0 for count in stated) or (
            prefix_MW.shape[1] != layers * 2 * width or width % heads
        ):
            raise ValueError(
                f"says `num_layers` {layers!r}, `num_attention_heads` {heads!r} and `token_dim` {width!r}, which does "
                f"not go with {prefix_MW.shape[1]} numbers a position. Save the adapter again."
            )
        in_decoder = config.get("num_transformer_submodules") == 2
        return {"prefix": prefix_MW}, cls(layers=layers, heads=heads, in_decoder=in_decoder)


_WHERE = {True: "an encoder with a decoder", False: "a base of one transformer"}


def doubled(prefix_MW: Tensor, layers: int) -> Tensor:
    """[M, 2 W]: the keys and values of each layer, and zeros for as many again after each, as `PrefixForm` has them."""
    parts_MLX = prefix_MW.view(len(prefix_MW), layers, -1)
    return torch.cat([parts_MLX, torch.zeros_like(parts_MLX)], dim=2).flatten(1)


def _words(dimensions: tuple[int, int, int]) -> str:
    return "{} layers of {} heads and {} numbers".format(*dimensions)
