"""Answers that an encoder-decoder writes: each prompt is encoded once, and what the decoder says follows its start.

Axes: B rows of a batch, T padded tokens of the encoder, V vocabulary, H hidden.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.models.generate import Writer
from tunewise.models.growing import growing_cache
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tokens import Tokens, collate


def seq2seq_writer(base: Seq2Seq) -> Writer:
    """What writes with an encoder-decoder."""
    return Writer(base, lambda prompts: _Decoding(base, prompts))


class _Decoding:
    """Answers that begin after what the decoder starts from."""

    def __init__(self, base: Seq2Seq, prompts: Sequence[np.ndarray]) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self._base, self._body = base, base.body
        tokens = Tokens(ids=list(prompts), types=None, row_S=np.arange(len(prompts)), rows=len(prompts))
        batch = collate(tokens, range(len(prompts)), pad_id=base.pad_id, device=base.device)
        self._encoded_BTH, self._mask_BT = self._body.encode(batch.input_ids_ST, batch.attention_mask_ST)
        self._inputs = torch.tensor([list(base.lead_ids)] * len(prompts), device=base.device)
        self._cache: Any = EncoderDecoderCache(growing_cache(), DynamicCache())

    def logits(self) -> Tensor:
        hidden = self._body.decode(self._inputs, encoded=self._encoded_BTH, mask=self._mask_BT, cache=self._cache)
        return self._base.read(hidden[:, -1]).float()

    def go_on(self, tokens: Sequence[int]) -> None:
        self._inputs = torch.tensor([[token] for token in tokens], device=self._mask_BT.device)

    def select(self, rows: Sequence[int]) -> None:
        at = torch.tensor(list(rows), device=self._mask_BT.device)
        self._cache.batch_select_indices(at)
        self._inputs, self._mask_BT, self._encoded_BTH = self._inputs[at], self._mask_BT[at], self._encoded_BTH[at]
