"""A base that fills gaps: BERT and its kin with the head that says which word a mask stands for.

Axes: S sequences or places, T positions, H hidden, V vocabulary.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.models.asked import Asked, added_around
from tunewise.models.encoder import BaseInfo, Batch
from tunewise.models.prefix_tree import Request
from tunewise.models.tree import Given, shared_tree, with_body
from tunewise.types import GAP, NEXT

TRIED_IDS = (5, 6, 7)
SAME = 1e-3
"""Largest difference of logits between a model and its parts that is rounding."""


class Masked(Asked):
    """A frozen masked base with its MLM head.

    A prompt is a text with a gap (`GAP`), which is read with as many masks in it as an answer has tokens. An answer's
    tokens are scored all at once, each at its own mask, as PET trains them (Schick and Schütze 2021, arXiv 2009.07118):
    answers of one length then share a pass, however many there are.
    """

    writes: ClassVar[bool] = False
    label_end = ""

    def __init__(self, info: BaseInfo, model: Any, tokenizer: Any) -> None:
        """`model`: as transformers' AutoModelForMaskedLM loads it, where `fills_gaps` says that it does."""
        super().__init__(info, getattr(model, model.base_model_prefix), tokenizer)
        self.whole: nn.Module = model.eval().requires_grad_(False)
        self.decoder: nn.Linear = model.get_output_embeddings()
        self.vocabulary = self.decoder.out_features
        self.mask_id = int(tokenizer.mask_token_id)
        self.start_ids, self._close_ids = added_around(self._backend)
        self.end_ids: tuple[int, ...] = ()
        self._to_last = _without_last(model)
        self._reader = with_body(self._to_last, Given())
        self.origin: Masked = self
        """The base as it was loaded, also of what was made of it."""

    @property
    def body(self) -> nn.Module:
        return self.model

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As of every base, nothing for a gap; a mask that stands in a text of its own is an unknown word."""
        return [before + after for before, after in self._around_gap(texts)]

    def prompt_ids(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """Each with one mask in its gap."""
        return [self._with_masks(around, 1) for around in self._around_gap(prompts)]

    def room(self, answer_tokens: int) -> int:
        return self.info.max_tokens - len(self.start_ids) - len(self._close_ids) - max(1, answer_tokens)

    def requests(self, prompt: str, answers: Sequence[str], *, end: bool = False) -> list[Request]:
        """The context of each is the whole text with its masks; nothing ends an answer."""
        (around,) = self._around_gap([prompt])
        return [
            Request(self._with_masks(around, len(ids)), np.array(ids, dtype=np.int64)) for ids in self.text_ids(answers)
        ]

    def fits(self, request: Request) -> bool:
        return len(request.context) <= self.info.max_tokens

    def output_rows(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Float32 rows [tokens, H] and biases [tokens] of the layer that reads the vocabulary off the rest."""
        at = torch.tensor(list(ids), device=self.decoder.weight.device)
        bias = self.decoder.bias
        bias_S = torch.zeros(len(at)) if bias is None else bias.detach()[at]
        return self.decoder.weight.detach()[at].float().cpu().numpy(), bias_S.float().cpu().numpy()

    def read(self, hidden_SH: Tensor) -> Tensor:
        """Logits [S, V] of the words that masks with these last hidden states stand for."""
        last_SH: Tensor = self._reader(inputs_embeds=hidden_SH[None]).logits[0]
        logits_SV: Tensor = self.decoder(last_SH)
        return logits_SV

    def at_answer(self) -> Self:
        """The base with, for vectors, what its last layer would read the vocabulary off at the mask of each text."""
        if self.info.pooling == "mask":
            return self
        view = copy.copy(self)
        view.model = self._to_last
        view.info = dataclasses.replace(
            self.info, pooling="mask", normalize=False, hidden_size=self.decoder.in_features
        )
        return view

    def pool_sequences(self, hidden_STH: Tensor, batch: Batch) -> Tensor:
        if self.info.pooling != "mask":
            return super().pool_sequences(hidden_STH, batch)
        place_S = (batch.input_ids_ST == self.mask_id).int().argmax(dim=1)
        return hidden_STH[torch.arange(len(place_S), device=place_S.device), place_S].float()

    def _with_masks(self, around: tuple[list[int], list[int]], masks: int) -> np.ndarray:
        before, after = around
        ids = [*self.start_ids, *before, *[self.mask_id] * masks, *after, *self._close_ids]
        return np.array(ids, dtype=np.int64)

    def _around_gap(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids before and after the gap of each text; before its end where it has none."""
        sides = [side for text in texts for side in _sides(text)]
        segments = [side.split(NEXT) for side in sides]
        ids = iter(super().text_ids([segment for each in segments for segment in each]))
        unknown = self.tokenizer.unk_token_id
        own: list[list[int]] = []
        for each in segments:
            joined: list[int] = []
            for number in range(len(each)):
                joined += [self.tokenizer.sep_token_id] if number else []
                found = [unknown if i == self.mask_id else i for i in next(ids)]
                joined += [i for i in found if i is not None]
            own.append(joined)
        return list(zip(own[::2], own[1::2], strict=True))


def fills_gaps(model: Any, tokenizer: Any) -> bool:
    """Whether a model loaded for masked words can be taken apart into body, head and a last layer over words."""
    last = model.get_output_embeddings()
    if tokenizer.mask_token_id is None or tokenizer.sep_token_id is None or not isinstance(last, nn.Linear):
        return False
    if last.out_features != model.get_input_embeddings().num_embeddings:
        return False
    device = last.weight.device
    ids = torch.tensor([TRIED_IDS], device=device)
    with torch.no_grad():
        try:
            body: Any = getattr(model.eval(), model.base_model_prefix)
            hidden_STH = body(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
            reader = with_body(_without_last(model), Given())
            gap = (last(reader(inputs_embeds=hidden_STH).logits) - model(input_ids=ids).logits).abs().max()
        except (RuntimeError, TypeError, AttributeError, KeyError, ValueError):
            return False
    return bool(gap <= SAME * max(1.0, float(hidden_STH.abs().max())) or model.dtype == torch.bfloat16)


def _without_last(model: Any) -> nn.Module:
    """A tree over the same weights without the last layer, so that it gives what that would read."""
    tree = shared_tree(model)
    last = tree.get_output_embeddings()  # type: ignore[operator]
    path = next(path for path, module in tree.named_modules() if module is last)
    # a head may hold the last layer's bias once more, under a name of its own
    for module in list(tree.modules()):
        for name, own in list(module._parameters.items()):
            if own is last.bias and own is not None and module is not last:
                del module._parameters[name]
    tree.set_submodule(path, nn.Identity())
    return tree


def _sides(text: str) -> tuple[str, str]:
    before, _, after = text.partition(GAP)
    return before.rstrip(), after.replace(GAP, "")
