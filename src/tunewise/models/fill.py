"""Log-probabilities of answers at the masks of a text, under a base that fills gaps.

Axes: B texts of a pass, N padded tokens, S masks, H hidden, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.models.masked import Masked
from tunewise.models.packed import packed
from tunewise.models.precision import fast_float32
from tunewise.models.prefix_tree import Request
from tunewise.models.tokens import Tokens, by_length, pad

PASS_TOKENS_CPU, PASS_TOKENS_DEVICE = 1024, 65536
"""Padded tokens of a forward pass."""
PACKED_FROM = 16
"""Passes from which on laying the weights out anew pays."""
LOGITS = 1 << 24
"""Numbers of the vocabulary's logits that are held at once."""


class Scorer:
    """Scores answers on one masked base; texts that differ only by the answer are read once."""

    def __init__(self, base: Masked) -> None:
        self.base, self.body = base, base.body
        self.note: str | None = None

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens that are computed to score these."""
        return sum(len(request.context) for request in _distinct(requests).values())

    def score(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Natural-log probability of each token of each request's continuation, float64.

        What is returned does not depend, but for rounding, on what else is scored in the same call.
        """
        if not requests:
            return []
        contexts = _distinct(requests)
        ids = [request.context for request in contexts.values()]
        of_context: dict[bytes, list[int]] = {name: [] for name in contexts}
        for i, request in enumerate(requests):
            of_context[request.context.tobytes()].append(i)
        wanted = [[requests[i].continuation for i in of_context[name]] for name in contexts]
        found: list[np.ndarray] = [np.empty(0)] * len(requests)
        for name, values in zip(contexts, self._read(ids, wanted), strict=True):
            for i, value in zip(of_context[name], values, strict=True):
                found[i] = value
        return found

    def _read(self, ids: Sequence[np.ndarray], wanted: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Of each text, the log-probabilities of each wanted row of tokens at its masks."""
        tokens = Tokens(ids=list(ids), types=None, row_S=np.arange(len(ids)), rows=len(ids))
        budget = PASS_TOKENS_CPU if self.base.device.type == "cpu" else PASS_TOKENS_DEVICE
        found: list[list[np.ndarray]] = [[] for _ in ids]
        with torch.inference_mode(), fast_float32():
            body = self.body
            if tokens.tokens > PACKED_FROM * budget:
                body = packed(body, budget, lambda model: self._hidden(model, tokens, np.arange(min(4, len(ids))))[0])
            for picks in by_length(tokens.lengths_S, budget):
                hidden_SH, masks_B = self._hidden(body, tokens, picks)
                start = 0
                for run in self._runs(masks_B):
                    many = int(masks_B[run].sum())
                    log_SV = torch.log_softmax(self.base.read(hidden_SH[start : start + many]).float(), dim=-1)
                    place = 0
                    for b in run:
                        own_SV = log_SV[place : place + int(masks_B[b])]
                        found[picks[b]] = [_at(own_SV, each) for each in wanted[picks[b]]]
                        place += int(masks_B[b])
                    start += many
        return found

    def _hidden(self, body: nn.Module, tokens: Tokens, picks: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Last hidden states of all masks, text after text, and how many masks each text has."""
        place = np.arange(len(picks))
        base = self.base
        batch = pad(tokens, picks.tolist(), place, rows=len(picks), pad_id=base.pad_id, device=base.device)
        hidden_BNH = body(input_ids=batch.input_ids_ST, attention_mask=batch.attention_mask_ST)[0]
        masked_BN = batch.input_ids_ST == base.mask_id
        return hidden_BNH[masked_BN], masked_BN.sum(dim=1).cpu().numpy()

    def _runs(self, masks_B: np.ndarray) -> list[range]:
        """Texts whose masks are read together: no more logits than are held at once."""
        runs, start, most = [], 0, max(1, LOGITS // self.base.vocabulary)
        for b in range(1, len(masks_B) + 1):
            if b == len(masks_B) or masks_B[start : b + 1].sum() > most:
                runs.append(range(start, b))
                start = b
        return runs


def _distinct(requests: Sequence[Request]) -> dict[bytes, Request]:
    return {request.context.tobytes(): request for request in requests}


def _at(log_SV: Tensor, wanted_S: np.ndarray) -> np.ndarray:
    """Log-probability of the wanted token at each mask."""
    places = torch.arange(len(wanted_S), device=log_SV.device)
    picked: np.ndarray = log_SV[places, torch.from_numpy(wanted_S).to(log_SV.device)].double().cpu().numpy()
    return picked
