"""Soft tokens in front of a text's embeddings, stacked: P members share one base and one pass.

Axes: P members (A of them active), S sequences of one member, N all rows of a call (A times S), M soft tokens,
T positions of the text, E numbers of a token's embedding, H hidden.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.adapters.stack import Member, Stack
from tunewise.errors import ModelError
from tunewise.seeding import derive

SAVED = "prompt_embeddings"
"""The one key in the weight file of an adapter that stands in front of the text."""


@dataclass(frozen=True, kw_only=True)
class TextMember(Member):
    """A member that starts from text."""

    text: Callable[[], Sequence[int]] | None = None
    """Token ids it starts from, cut or cycled to its length; called only when it starts. None: from noise."""

    def tokens(self, length: int) -> Tensor | None:
        """[1, M] ids to start from, or None."""
        if self.text is None:
            return None
        return torch.from_numpy(np.resize(np.array(self.text(), dtype=np.int64), length))[None]


class SoftPromptStack(Stack):
    """P soft prompts at the input of one base (Lester et al. 2021, arXiv 2104.08691)."""

    kind = "prompt_tuning"

    def __init__(self, model: nn.Module, members: Sequence[Member], *, length: int, rate: float = 1.0) -> None:
        """`length`: M; `rate` multiplies the learning rate of the prompts.

        Raises:
            ModelError: the base has no table of token embeddings.
        """
        self.table = token_table(model)
        self.reserved, self.multiplier = length, rate
        super().__init__(members, self.table.weight.device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`prompt` [M, E]."""
        return {"prompt": (self.reserved, self.table.embedding_dim)}

    def initial(self, name: str, member: Member) -> Tensor:
        """Embeddings of the member's text; without one, noise as wide as the table's."""
        ids_1M = member.tokens(self.reserved) if isinstance(member, TextMember) else None
        weight = self.table.weight.detach()
        if ids_1M is not None:
            return weight[ids_1M[0].to(weight.device)].float()
        rng = torch.Generator().manual_seed(derive(member.seed, "soft_prompt"))
        return torch.randn(*self.shapes()[name], generator=rng) * float(weight.float().std())

    def decays(self, name: str) -> bool:
        """Never: zero is no token, so there is nothing to be drawn towards."""
        return False

    def rate(self, name: str) -> float:
        return self.multiplier

    def attach(self, model: nn.Module) -> nn.Module:
        """Of a base with a decoder, the encoder reads the prompt, and the decoder what the encoder makes of it."""
        if hasattr(model, "decoder"):
            model.encoder = _PromptedEncoder(model.get_submodule("encoder"), self)
            return model
        return PromptedModel(model, self)


class PromptedModel(nn.Module):
    """A base that reads each member's soft prompt before the text, for rows sorted by member."""

    def __init__(self, base: nn.Module, stack: SoftPromptStack) -> None:
        super().__init__()
        self.base, self.stack = base, stack

    @property
    def config(self) -> Any:
        return self.base.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        """The base's output with hidden states [N, T, H] of the text alone; token types are dropped, as in PEFT.

        Where a text is written, mask and positions are those of the text; the prompt is read with its first tokens.
        """
        length, first = self.stack.reserved, begins(past_key_values)
        text_NTE = self.stack.table(input_ids)
        if first:
            prompt_NME = per_row(self.stack.active("prompt").to(text_NTE.dtype), len(input_ids))
            text_NTE = torch.cat([prompt_NME, text_NTE], dim=1)
        if position_ids is not None:
            options["position_ids"] = positions_behind(length if first else 0, length + position_ids)
        if past_key_values is not None:
            options["past_key_values"] = past_key_values
        output = self.base(
            inputs_embeds=text_NTE, attention_mask=mask_with(length, input_ids, attention_mask), **options
        )
        if first:
            output.last_hidden_state = output.last_hidden_state[:, length:]
        return output


class _PromptedEncoder(nn.Module):
    """An encoder that gives the states of the soft prompt, too."""

    def __init__(self, base: nn.Module, stack: SoftPromptStack) -> None:
        super().__init__()
        self.base, self.stack = base, stack

    @property
    def config(self) -> Any:
        return self.base.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """The encoder's output, hidden states [N, M + T, H]."""
        prompt_NME = per_row(self.stack.active("prompt").to(self.stack.table.weight.dtype), len(input_ids))
        return self.base(
            inputs_embeds=torch.cat([prompt_NME, self.stack.table(input_ids)], dim=1),
            attention_mask=mask_with(self.stack.reserved, input_ids, attention_mask),
            **options,
        )


def begins(cache: Any) -> bool:
    """Whether a pass with this cache of keys and values is the first of its text."""
    return cache is None or cache.get_seq_length() == 0


def positions_behind(length: int, position_NT: Tensor) -> Tensor:
    """Positions [N, M + T] of `length` tokens in front of those at the given ones."""
    before_M = torch.arange(length, device=position_NT.device)
    return torch.cat([before_M.expand(len(position_NT), length), position_NT], dim=1)


def token_table(model: nn.Module, kind: str = "prompt_tuning") -> nn.Embedding:
    """The base's token embeddings.

    Raises:
        ModelError: it has none.
    """
    find: Any = getattr(model, "get_input_embeddings", lambda: None)
    try:
        table = find()
    except (NotImplementedError, AttributeError):
        table = None
    if not isinstance(table, nn.Embedding):
        raise ModelError(
            f"{kind}: {type(model).__name__} has no table of token embeddings to put soft tokens beside. Use 'lora'."
        )
    return table


def dimensions(model: nn.Module) -> tuple[int, int, int]:
    """Layers, heads and hidden size."""
    config: Any = model.config
    return int(config.num_hidden_layers), int(config.num_attention_heads), int(config.hidden_size)


def per_row(x_A: Tensor, rows: int) -> Tensor:
    """Members' tensors [A, ...] as one for each of their rows [N, ...]."""
    members = x_A.shape[0]
    return x_A[:, None].expand(members, rows // members, *x_A.shape[1:]).flatten(0, 1)


def mask_with(length: int, input_ids_NT: Tensor, mask_NT: Tensor | None) -> Tensor:
    """The attention mask [N, M + T] of a text with `length` positions in front, all of them seen."""
    mask_NT = torch.ones_like(input_ids_NT) if mask_NT is None else mask_NT
    return torch.cat([mask_NT.new_ones(len(mask_NT), length), mask_NT], dim=1)


@dataclass(frozen=True, kw_only=True)
class SoftPromptForm:
    """A soft prompt as PEFT's PROMPT_TUNING.

    All it takes to answer is in the tensor; PEFT also wants to know the base, and does not find out by itself for all.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    layers: int | None = None
    heads: int | None = None

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> SoftPromptStack:
        length = tensors["prompt"].shape[0]
        check_room(model, length, SoftPromptStack.kind)
        return SoftPromptStack(model, [Member()], length=length)

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        length, width = tensors["prompt"].shape
        return {
            "num_attention_heads": self.heads,
            "num_layers": self.layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": length,
            "prompt_tuning_init": "RANDOM",
            "token_dim": width,
        }

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {SAVED: tensors["prompt"]}

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        prompt_ME = read_virtual_tokens(config, stored)
        if config.get("token_dim") not in (None, prompt_ME.shape[1]):
            raise ValueError(
                f"says `token_dim` {config['token_dim']!r}, found {prompt_ME.shape[1]} numbers a token. "
                "Save the adapter again."
            )
        return {"prompt": prompt_ME}, cls(layers=config.get("num_layers"), heads=config.get("num_attention_heads"))


def check_room(model: nn.Module, length: int, kind: str) -> None:
    """Raises ModelError where virtual tokens take all positions of a base."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions <= length:
        raise ModelError(
            f"{kind}: the adapter has {length} virtual tokens, and this base has {positions} positions: none is left "
            "for the text. The adapter was made for another base."
        )


def read_virtual_tokens(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], *, transformers: Sequence[int] = (1,)
) -> Tensor:
    """The saved tensor, one row for each virtual token; `transformers`: in front of how many it may stand.

    Raises:
        ValueError: it is not that of a plain prompt in front of so many; the message ends a sentence.
    """
    foreign = sorted(stored.keys() - {SAVED})
    if foreign or SAVED not in stored:
        found = f"holds '{foreign[0]}', which is" if foreign else f"has no '{SAVED}', so it is"
        raise ValueError(f"{found} no soft prompt. Only adapters trained as features, without a head, are read.")
    if config.get("num_transformer_submodules") not in (None, *transformers):
        raise ValueError(
            f"says `num_transformer_submodules` {config['num_transformer_submodules']!r}; this kind of adapter is read "
            f"where it is {' or '.join(map(str, transformers))}."
        )
    tensor, count = stored[SAVED], config.get("num_virtual_tokens")
    if tensor.dim() != 2 or tensor.shape[0] != count or count < 1:
        raise ValueError(
            f"says `num_virtual_tokens` {count!r}, found '{SAVED}' of shape {tuple(tensor.shape)}. "
            "Save the adapter again."
        )
    return tensor
