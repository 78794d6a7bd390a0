"""Log-probabilities of answers under an encoder-decoder: each prompt is encoded once, each answer begun once a prompt.

Axes: C prompts of a batch, B answers of a pass, T padded tokens of the encoder, N of the decoder, S places whose next
token is wanted, H hidden, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.models.precision import fast_float32
from tunewise.models.prefix_tree import Request
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tokens import Tokens, by_length, pad

PROMPT_TOKENS_CPU, PROMPT_TOKENS_DEVICE = 2048, 65536
"""Padded tokens of the prompts of a batch."""
ANSWER_TOKENS_CPU, ANSWER_TOKENS_DEVICE = 4096, 131072
"""Padded tokens of the answers of a pass and of the prompts that each of them sees."""
LOGITS = 1 << 24
"""Numbers of the vocabulary's logits that are held at once."""


class Scorer:
    """Scores answers on one encoder-decoder."""

    def __init__(self, base: Seq2Seq) -> None:
        self.base, self.body = base, base.body
        self.note: str | None = None

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens that are computed to score these: every prompt once, every answer after the start of its prompt."""
        prompts = {request.context.tobytes(): len(request.context) for request in requests}
        asked = {(request.context.tobytes(), request.continuation.tobytes()): request for request in requests}
        after = sum(len(request.continuation) - 1 for request in asked.values())
        return sum(prompts.values()) + len(prompts) * len(self.base.lead_ids) + after

    def score(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Natural-log probability of each token of each request's continuation, float64.

        What is returned does not depend, but for rounding, on what else is scored in the same call.
        """
        found = [np.zeros(len(request.continuation)) for request in requests]
        asked: dict[bytes, dict[bytes, list[int]]] = {}
        for i, request in enumerate(requests):
            answers = asked.setdefault(request.context.tobytes(), {})
            answers.setdefault(request.continuation.tobytes(), []).append(i)
        groups = list(asked.values())
        contexts = [requests[next(iter(answers.values()))[0]].context for answers in groups]
        tokens = Tokens(ids=contexts, types=None, row_S=np.arange(len(contexts)), rows=len(contexts))
        on_cpu = self.base.device.type == "cpu"
        with torch.inference_mode(), fast_float32():
            for picks in by_length(tokens.lengths_S, PROMPT_TOKENS_CPU if on_cpu else PROMPT_TOKENS_DEVICE):
                self._batch(tokens, picks, [groups[i] for i in picks], requests, found)
        return found

    def _batch(
        self,
        tokens: Tokens,
        picks: np.ndarray,
        groups: Sequence[dict[bytes, list[int]]],
        requests: Sequence[Request],
        found: list[np.ndarray],
    ) -> None:
        """The answers to some prompts, by what the decoder makes of its start after each."""
        from transformers import DynamicCache, EncoderDecoderCache

        base = self.base
        batch = pad(
            tokens, picks.tolist(), np.arange(len(picks)), rows=len(picks), pad_id=base.pad_id, device=base.device
        )
        encoded_CTH, mask_CT = self.body.encode(batch.input_ids_ST, batch.attention_mask_ST)
        cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        lead = torch.tensor([list(base.lead_ids)] * len(picks), device=base.device)
        start_C1H = self.body.decode(lead, encoded=encoded_CTH, mask=mask_CT, cache=cache)[:, -1:]
        # (prompt, requests that ask the same of it)
        asked = [(c, same) for c, answers in enumerate(groups) for same in answers.values()]
        after = np.array([len(requests[same[0]].continuation) - 1 for _, same in asked], dtype=np.int64)
        on_cpu = base.device.type == "cpu"
        seen = int(mask_CT.shape[1]) + len(base.lead_ids)
        budget = ANSWER_TOKENS_CPU if on_cpu else ANSWER_TOKENS_DEVICE
        for chosen in by_length(after + seen, budget):
            rows = [asked[i] for i in chosen]
            at = torch.tensor([c for c, _ in rows], device=base.device)
            hidden_BNH = start_C1H[at]
            width = int(after[chosen].max())
            if width:
                ids_BN = np.full((len(rows), width), base.pad_id)
                for b, (_, same) in enumerate(rows):
                    read = requests[same[0]].continuation[:-1]
                    ids_BN[b, : len(read)] = read
                own = _copied(cache, at)
                ids = torch.from_numpy(ids_BN).to(base.device)
                mask = mask_CT[at]
                more_BNH = self.body.decode(ids, encoded=encoded_CTH[at], mask=mask, cache=own)
                hidden_BNH = torch.cat([hidden_BNH, more_BNH], dim=1)
            self._note_down(hidden_BNH, [same for _, same in rows], requests, found)

    def _note_down(
        self,
        hidden_BNH: Tensor,
        rows: Sequence[list[int]],
        requests: Sequence[Request],
        found: list[np.ndarray],
    ) -> None:
        """Read the vocabulary where an answer's token is foreseen, and note its log-probability."""
        wanted = [requests[same[0]].continuation for same in rows]
        row_S = np.repeat(np.arange(len(rows)), [len(ids) for ids in wanted])
        place_S = np.concatenate([np.arange(len(ids)) for ids in wanted])
        token_S = torch.from_numpy(np.concatenate(wanted)).to(hidden_BNH.device)
        value_S = np.empty(len(row_S))
        hidden_SH = hidden_BNH[torch.from_numpy(row_S).to(hidden_BNH.device), torch.from_numpy(place_S)]
        place = torch.arange(len(row_S), device=hidden_BNH.device)
        for some in torch.split(place, max(1, LOGITS // self.base.vocabulary)):
            logits_SV = self.base.read(hidden_SH[some]).float()
            picked = logits_SV.gather(1, token_S[some, None])[:, 0] - torch.logsumexp(logits_SV, dim=-1)
            value_S[some.cpu().numpy()] = picked.double().cpu().numpy()
        start = 0
        for same, ids in zip(rows, wanted, strict=True):
            for i in same:
                found[i][:] = value_S[start : start + len(ids)]
            start += len(ids)


def _copied(cache: Any, at: Tensor) -> Any:
    """The cache of these rows, which may repeat; the original stays as it is."""
    from transformers import DynamicCache, EncoderDecoderCache

    parts = [
        DynamicCache([(layer.keys[at], layer.values[at]) for layer in part.layers])
        for part in (cache.self_attention_cache, cache.cross_attention_cache)
    ]
    return EncoderDecoderCache(*parts)
