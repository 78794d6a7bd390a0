"""Answers written token by token, many prompts at once.

Prompts of similar length go together, padded on the left; rows that are finished leave the batch, so that a long answer
does not keep the others waiting.

Axes: B rows of a batch, T positions, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.errors import ConfigError
from tunewise.models.asked import Asked
from tunewise.models.beams import BeamSearch
from tunewise.models.causal import Causal
from tunewise.models.going import Allowed, Going
from tunewise.models.growing import growing_cache
from tunewise.models.precision import fast_float32
from tunewise.models.quick_attention import with_quick_attention
from tunewise.models.tokens import by_length
from tunewise.seeding import generator

BATCH_TOKENS_CPU, BATCH_TOKENS_DEVICE = 32768, 262144
"""Padded tokens of prompts and answers of a batch."""
CACHE_BYTES = 16 * 1024**3
"""Of keys and values of a batch."""
LEAVE = 0.75
"""Share of a batch's rows still writing below which the finished ones are dropped from it."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is written."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0: always the likeliest token (greedy)."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that have this share of the probability (Holtzman et al. 2020)."""
    beams: int = 1
    """Answers that are kept while one is written (beam search), of which the likeliest by token is given."""
    stop: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    choices: tuple[str, ...] = ()
    """Where there are any, an answer is one of these."""
    regex: str | None = None
    """An answer matches the whole of this expression."""
    json_schema: str | None = None
    """An answer is JSON that fits this schema, which is JSON as well."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"decoding: `max_new_tokens` must be 1 or more, got {self.max_new_tokens}.")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"decoding: `temperature` must be 0 or more, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"decoding: `top_p` must lie above 0 and be at most 1, got {self.top_p}.")
        if any(not text for text in self.stop):
            raise ConfigError("decoding: `stop` holds an empty text, which would end every answer. Leave it out.")
        if self.beams < 1 or (self.beams > 1 and self.temperature > 0):
            raise ConfigError(
                f"decoding: `beams` must be 1 or more, and 1 where tokens are drawn; got {self.beams} at temperature "
                f"{self.temperature}."
            )


@dataclass(frozen=True)
class Written:
    """An answer."""

    ids: tuple[int, ...]
    """Without the token that ended it."""
    text: str
    """What the ids say, up to a stop."""
    log_probability: float
    """Natural log, summed over its tokens and the one that ended it, before temperature and `top_p`."""
    ended: bool
    """Whether it came to an end by itself or at a stop, before `max_new_tokens`."""


@dataclass
class _Row:
    """An answer being written."""

    number: int
    ids: list[int] = dataclasses.field(default_factory=list)
    total: float = 0.0
    ended: bool = False
    text: str | None = None
    """Up to a stop, once one was met."""


class Writer:
    """Writes answers with one base, or with each of several members that are adapted on it."""

    def __init__(self, base: Asked, begin: Callable[[Sequence[np.ndarray]], Going], *, members: int = 1) -> None:
        """`begin`: nothing written yet after these prompts, which are those of one member after those of another."""
        self.base, self.begin, self.members = base, begin, members

    def write(
        self, prompts: Sequence[np.ndarray], decoding: Decoding, *, allowed: Allowed | None = None
    ) -> list[Written]:
        """An answer to each prompt (token ids, one at least), in order; of several members, of one after the other.

        Greedy answers do not depend on the other prompts or members, but for rounding; sampled ones draw from (seed,
        prompt).
        """
        found: list[Written | None] = [None] * (self.members * len(prompts))
        each = self.members * decoding.beams
        lengths = np.array([each * (len(ids) + decoding.max_new_tokens) for ids in prompts], dtype=np.int64)
        most = BATCH_TOKENS_CPU if self.base.device.type == "cpu" else BATCH_TOKENS_DEVICE
        budget = max(1, min(most, CACHE_BYTES // self._cache_bytes()))
        with torch.inference_mode(), fast_float32():
            for picks in by_length(lengths, budget):
                numbers = [member * len(prompts) + i for member in range(self.members) for i in picks.tolist()]
                read = [prompts[i] for i in picks] * self.members
                for row in self._batch(read, numbers, decoding, allowed):
                    found[row.number] = self._written(row)
        return [answer for answer in found if answer is not None]

    def _cache_bytes(self) -> int:
        """Most that the keys and values of a token take."""
        config: Any = self.base.model.config
        return 2 * int(config.num_hidden_layers) * int(config.hidden_size) * self.base.dtype.itemsize

    def _batch(
        self, prompts: Sequence[np.ndarray], numbers: Sequence[int], decoding: Decoding, allowed: Allowed | None
    ) -> list[_Row]:
        going = self.begin(prompts)
        if decoding.beams > 1:
            return self._by_beams(going, numbers, decoding, allowed)
        rows = [_Row(number) for number in numbers]
        draws = [generator(decoding.seed, "answer", prompt.tobytes().hex()) for prompt in prompts]
        live = list(range(len(rows)))
        for _ in range(decoding.max_new_tokens):
            logits_BV = going.logits()
            chosen = self._chosen(logits_BV, [rows[i] for i in live], [draws[i] for i in live], decoding, allowed)
            for i, token in zip(live, chosen, strict=True):
                self._take(rows[i], token, decoding, allowed)
            writing = [place for place, i in enumerate(live) if not rows[i].ended]
            if not writing:
                break
            going.go_on(chosen)
            if len(writing) <= LEAVE * len(live):
                going.select(writing)
                live = [live[place] for place in writing]
        return rows

    def _by_beams(
        self, going: Going, numbers: Sequence[int], decoding: Decoding, allowed: Allowed | None
    ) -> list[_Row]:
        search = BeamSearch(
            going,
            beams=decoding.beams,
            max_new_tokens=decoding.max_new_tokens,
            end_ids=self.base.end_ids,
            stopped=lambda ids: self._stopped(ids, decoding),
            allowed=allowed,
        )
        found = search.run(len(numbers))
        return [
            _Row(number, list(beam.ids), beam.total, beam.ended, beam.text)
            for number, beam in zip(numbers, found, strict=True)
        ]

    def _chosen(
        self,
        logits_BV: Tensor,
        rows: Sequence[_Row],
        draws: Sequence[np.random.Generator],
        decoding: Decoding,
        allowed: Allowed | None,
    ) -> list[int]:
        """The next token of each row; what it adds to the answer's log-probability is noted."""
        log_BV = torch.log_softmax(logits_BV, dim=-1)
        if allowed is not None:
            logits_BV = _only(logits_BV, [None if row.ended else allowed(row.ids) for row in rows])
        if decoding.temperature == 0.0:
            chosen: list[int] = logits_BV.argmax(-1).tolist()
        else:
            share_BV = torch.softmax(logits_BV.double() / decoding.temperature, dim=-1)
            chosen = [
                _drawn(share_V, decoding.top_p, rng) for share_V, rng in zip(share_BV.cpu().numpy(), draws, strict=True)
            ]
        for row, log_V, token in zip(rows, log_BV, chosen, strict=True):
            if not row.ended:
                row.total += float(log_V[token])
        return chosen

    def _take(self, row: _Row, token: int, decoding: Decoding, allowed: Allowed | None) -> None:
        if row.ended:
            return
        if token in self.base.end_ids:
            row.ended = True
            return
        row.ids.append(token)
        row.text = self._stopped(row.ids, decoding)
        may = None if allowed is None else allowed(row.ids)
        row.ended = row.text is not None or (may is not None and len(may) == 0)

    def _stopped(self, ids: Sequence[int], decoding: Decoding) -> str | None:
        """What the ids say up to a stop; None where they met none."""
        if not decoding.stop:
            return None
        said = self._text(ids)
        found = [place for stop in decoding.stop if (place := said.find(stop)) >= 0]
        return said[: min(found)] if found else None

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.base.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _written(self, row: _Row) -> Written:
        text = self._text(row.ids) if row.text is None else row.text
        return Written(ids=tuple(row.ids), text=text, log_probability=row.total, ended=row.ended)


def causal_writer(base: Causal, body: nn.Module | None = None) -> Writer:
    """What writes with a causal base, or with a module tree that was adapted from it.

    `body`: what gives hidden states in the place of the base's own.
    """
    used = with_quick_attention(base.body if body is None else body)
    return Writer(base, lambda prompts: _GoingOn(base, used, prompts))


class _GoingOn:
    """Answers that follow their prompts in one sequence."""

    def __init__(self, base: Causal, body: nn.Module, prompts: Sequence[np.ndarray]) -> None:
        self._base, self._body = base, body
        ids_BT, mask_BT = left_padded(prompts, pad_id=base.pad_id)
        self._inputs, self._mask = torch.from_numpy(ids_BT).to(base.device), torch.from_numpy(mask_BT).to(base.device)
        self._cache = growing_cache(base.model.config)

    def logits(self) -> Tensor:
        position_BT = (self._mask.cumsum(1) - 1).clamp_(min=0)[:, -self._inputs.shape[1] :]
        output = self._body(
            input_ids=self._inputs,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            position_ids=position_BT,
        )
        return self._base.read(output.last_hidden_state[:, -1]).float()

    def go_on(self, tokens: Sequence[int]) -> None:
        self._inputs = torch.tensor([[token] for token in tokens], device=self._mask.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)

    def select(self, rows: Sequence[int]) -> None:
        at = torch.tensor(list(rows), device=self._mask.device)
        self._cache.batch_select_indices(at)
        self._inputs, self._mask = self._inputs[at], self._mask[at]


def left_padded(prompts: Sequence[np.ndarray], *, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [B, T], the padding before the text and masked by its place, whatever id it has."""
    width = max(len(ids) for ids in prompts)
    ids_BT = np.full((len(prompts), width), pad_id, dtype=np.int64)
    mask_BT = np.zeros((len(prompts), width), dtype=np.int64)
    for row, ids in enumerate(prompts):
        ids_BT[row, width - len(ids) :], mask_BT[row, width - len(ids) :] = ids, 1
    return ids_BT, mask_BT


def _only(logits_BV: Tensor, allowed: Sequence[Sequence[int] | np.ndarray | None]) -> Tensor:
    """Logits with all tokens ruled out that may not follow."""
    ruled = torch.full_like(logits_BV, -torch.inf)
    for row, ids in enumerate(allowed):
        if ids is None:
            ruled[row] = logits_BV[row]
        else:
            at = torch.as_tensor(ids, dtype=torch.long, device=logits_BV.device)
            ruled[row, at] = logits_BV[row, at]
    return ruled


def _drawn(share_V: np.ndarray, top_p: float, rng: np.random.Generator) -> int:
    """A token drawn among the likeliest that have `top_p` of the probability together."""
    order_V = np.argsort(-share_V, kind="stable")
    below_V = np.cumsum(share_V[order_V]) - share_V[order_V]
    kept = order_V[below_V < top_p]
    place = np.searchsorted(np.cumsum(share_V[kept]), rng.random() * share_V[kept].sum(), side="right")
    return int(kept[min(int(place), len(kept) - 1)])
