"""A base that reads whole texts and gives vectors: BERT and its kin, with or without a sentence pooling.

S sequences, T padded tokens, H hidden size, R rows of a batch, N rows of a data set.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tunewise.config import Truncation
from tunewise.errors import ModelError
from tunewise.models.packed import packed
from tunewise.models.precision import fast_float32
from tunewise.models.tokens import Batch, Tokens, by_length, collate, pad
from tunewise.models.truncation import answering, kept_positions, refuse_if_many

__all__ = ["BaseInfo", "Batch", "Encoder", "Policy", "Pooling", "Tokens", "answering", "collate"]

Policy = Truncation
Pooling = Literal["mean", "cls", "last", "max", "mask"]
"""Of a sequence's tokens; "mask": of the one that is masked, where a base is asked what it stands for."""

PADDED_TOKENS_CPU = 1024
"""MiniLM is fastest at 512 to 2048: larger batches leave the cache."""
PADDED_TOKENS_DEVICE = 65536
PACKED_FROM = 16
"""Batches from which on laying the weights out anew pays (it costs about as much as one batch)."""
TRIED_SEQUENCES = 4


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """Which base this is, and the limits it has."""

    name: str
    """As asked for: "bundled:minilm", a path or a hub id."""
    path: str
    family: Literal["encoder", "masked", "causal", "seq2seq"]
    """"encoder": comes with a sentence pooling of its own; "masked": pre-trained on masked words; "causal": on the next
    word; "seq2seq": has an encoder, and a decoder that answers."""
    revision: str | None
    sha256: str
    """Of the weight file; of several files, the digest of their digests in order of name."""
    tokenizer_sha256: str
    """Of what says how it reads texts."""
    architecture: str
    hidden_size: int
    max_tokens: int
    """The longest sequence it reads, special tokens included."""
    parameters: int
    pooling: Pooling
    normalize: bool
    """Whether its vectors are meant to have length 1."""
    english_only: bool | None
    """None: not known."""


class Encoder:
    """A frozen base with its tokenizer; shared by everything that is adapted on it."""

    answer_positions: int | None = None
    """Of a decoder that reads the same after every text, where the base has one that gives its vectors."""

    def __init__(self, info: BaseInfo, model: torch.nn.Module, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{info.name}: its tokenizer ({type(tokenizer).__name__}) has no `tokenizer.json` form. "
                "Use a base whose folder holds a tokenizer.json."
            )
        self.info = info
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._backend = backend
        self.pad_id = int(tokenizer.pad_token_id or 0)
        accepts_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._uses_types = accepts_types and "token_type_ids" in tokenizer.model_input_names

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def encode(self, rows: Sequence[tuple[str, ...]], policy: Policy, *, name: str = "rows") -> Tokens:
        """Token ids of rows of one or two texts each, none longer than `info.max_tokens`.

        The only place where text becomes tokens. Under `refuse`, rows keep their start as long as at most 1 % of them
        are too long.

        Raises:
            DataError: the policy is `refuse` and more than 1 % of the rows are too long.
        """
        encodings = self._tokenized(rows)
        limit = self.info.max_tokens
        if policy == "refuse":
            too_long = sum(len(encoding) > limit for encoding in encodings)
            refuse_if_many(too_long, len(encodings), limit=limit, base=self.info.name, name=name)
        ids: list[np.ndarray] = []
        types: list[np.ndarray] = []
        row_of: list[int] = []
        cut_rows = cut_tokens = 0
        for row, encoding in enumerate(encodings):
            id_T = np.array(encoding.ids if len(encoding) else [self.pad_id], dtype=np.int64)
            type_T = np.array(encoding.type_ids if len(encoding) else [0], dtype=np.int64)
            if len(id_T) <= limit:
                ids.append(id_T)
                types.append(type_T)
                row_of.append(row)
                continue
            sequence_T = np.array([-1 if text is None else text for text in encoding.sequence_ids])
            pieces = kept_positions(sequence_T, limit, policy)
            lost = len(id_T) - len(np.unique(np.concatenate(pieces)))
            cut_rows += lost > 0
            cut_tokens += lost
            ids.extend(id_T[kept] for kept in pieces)
            types.extend(type_T[kept] for kept in pieces)
            row_of.extend([row] * len(pieces))
        return Tokens(
            ids=ids,
            types=types if self._uses_types else None,
            row_S=np.array(row_of, dtype=np.int64),
            rows=len(rows),
            cut_rows=cut_rows,
            cut_tokens=cut_tokens,
        )

    def token_counts(self, rows: Sequence[tuple[str, ...]]) -> list[int]:
        """Tokens of each row before anything is cut, special tokens included."""
        return [len(encoding) for encoding in self._tokenized(rows)]

    def forward(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [S, T, H] in the model's dtype; differentiable."""
        return _run(self.model, batch)

    def pool(self, hidden_STH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """One float32 vector per row [R, H]: pooled per sequence, then averaged by length over a row's sequences."""
        vector_SH = self.pool_sequences(hidden_STH, batch)
        if len(batch.row_S) == batch.rows:
            return vector_SH
        length_S = batch.attention_mask_ST.sum(dim=1).to(vector_SH.dtype)
        total_R = vector_SH.new_zeros(batch.rows).index_add_(0, batch.row_S, length_S)
        weight_S = length_S / total_R[batch.row_S]
        zero_RH = vector_SH.new_zeros(batch.rows, vector_SH.shape[1])
        return zero_RH.index_add(0, batch.row_S, vector_SH * weight_S[:, None])

    def pool_sequences(self, hidden_STH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """One float32 vector per sequence [S, H]; padding has no part in it."""
        mask_ST = batch.attention_mask_ST
        if self.info.pooling == "cls":
            return hidden_STH[:, 0].float()
        if self.info.pooling == "last":
            last_S = mask_ST.sum(dim=1) - 1
            return hidden_STH[torch.arange(len(last_S), device=last_S.device), last_S].float()
        hidden_STH = hidden_STH.float()
        if self.info.pooling == "max":
            return hidden_STH.masked_fill(mask_ST[:, :, None] == 0, -torch.inf).amax(dim=1)
        weight_ST = mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)

    def features(
        self,
        rows: Sequence[tuple[str, ...]],
        policy: Policy,
        *,
        name: str = "rows",
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Float32 vectors [N, H] of the frozen base, of length 1 where `info.normalize`; equal rows computed once.

        `progress` is called with the number of sequences done so far.

        Raises:
            DataError: as `encode`.
        """
        rows = list(rows)
        if not rows:
            return np.zeros((0, self.info.hidden_size), dtype=np.float32)
        position = {row: i for i, row in enumerate(dict.fromkeys(rows))}
        tokens = self.encode(rows, policy, name=name)
        first = {row: i for i, row in reversed(list(enumerate(rows)))}
        vector_UH = self.features_of(tokens.of_rows([first[row] for row in position]), progress=progress)
        return vector_UH[[position[row] for row in rows]]

    def features_of(self, tokens: Tokens, *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Float32 vectors [rows, H] of rows that are tokens already; see `features`."""
        vector_SH = np.empty((len(tokens.ids), self.info.hidden_size), dtype=np.float32)
        budget = PADDED_TOKENS_CPU if self.device.type == "cpu" else PADDED_TOKENS_DEVICE
        done = 0
        with torch.inference_mode(), fast_float32():
            model = self.model
            if tokens.lengths_S.sum() > PACKED_FROM * budget:
                few = self._sequences(tokens, np.arange(min(TRIED_SEQUENCES, len(tokens.ids))))
                model = packed(model, budget, lambda model: _run(model, few))
            for picks in by_length(tokens.lengths_S, budget):
                batch = self._sequences(tokens, picks)
                vector_SH[picks] = self.pool_sequences(_run(model, batch), batch).cpu().numpy()
                done += len(picks)
                if progress is not None:
                    progress(done)
        vector_NH = _mean_by_length(vector_SH, tokens)
        if self.info.normalize:
            vector_NH = vector_NH / np.maximum(np.linalg.norm(vector_NH, axis=1, keepdims=True), 1e-12)
        return vector_NH

    @property
    def depth(self) -> int:
        """How many blocks a text goes through."""
        return int(self.model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]

    def layer_features(self, rows: Sequence[tuple[str, ...]], policy: Policy, layers: Sequence[int]) -> np.ndarray:
        """Float32 vectors [layers, N, H]: hidden states after that many blocks (0: the embeddings), pooled as ever.

        All layers come out of one pass.

        Raises:
            DataError: as `encode`.
            ModelError: there is no such layer.
        """
        beyond = [layer for layer in layers if not 0 <= layer <= self.depth]
        if beyond:
            raise ModelError(f"{self.info.name}: layer {beyond[0]} was asked for; its layers are 0 to {self.depth}.")
        tokens = self.encode(rows, policy)
        vector_KSH = np.empty((len(layers), len(tokens.ids), self.info.hidden_size), dtype=np.float32)
        budget = PADDED_TOKENS_CPU if self.device.type == "cpu" else PADDED_TOKENS_DEVICE
        with torch.inference_mode(), fast_float32():
            for picks in by_length(tokens.lengths_S, budget):
                batch = self._sequences(tokens, picks)
                states = self.model(**_inputs(batch), output_hidden_states=True).hidden_states
                for place, layer in enumerate(layers):
                    vector_KSH[place, picks] = self.pool_sequences(states[layer], batch).cpu().numpy()
        vector_KNH = np.stack([_mean_by_length(vector_SH, tokens) for vector_SH in vector_KSH])
        if self.info.normalize:
            vector_KNH = vector_KNH / np.maximum(np.linalg.norm(vector_KNH, axis=-1, keepdims=True), 1e-12)
        return vector_KNH

    def _sequences(self, tokens: Tokens, picks: np.ndarray) -> Batch:
        """A batch of these sequences, each as a row of its own."""
        place = np.arange(len(picks))
        return pad(tokens, picks.tolist(), place, rows=len(picks), pad_id=self.pad_id, device=self.device)

    def _tokenized(self, rows: Sequence[tuple[str, ...]]) -> list[Any]:
        """Encodings of the tokenizers library, untruncated and unpadded."""
        inputs: list[str | tuple[str, str]] = []
        for row in rows:
            if not 1 <= len(row) <= 2:
                raise ModelError(f"{self.info.name}: a row has one text or two, got {len(row)}.")
            inputs.append(valid(row[0]) if len(row) == 1 else (valid(row[0]), valid(row[1])))
        # a saved tokenizer may bring its own settings, and whoever shares it may have changed them
        self._backend.no_truncation()
        self._backend.no_padding()
        encodings: list[Any] = self._backend.encode_batch(inputs)
        return encodings


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": batch.input_ids_ST, "attention_mask": batch.attention_mask_ST}
    if batch.token_type_ids_ST is not None:
        inputs["token_type_ids"] = batch.token_type_ids_ST
    return inputs


def _run(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    # of a model without a head its last hidden states; of one whose last layer was taken out what that would read
    hidden_STH: torch.Tensor = model(**_inputs(batch))[0]
    return hidden_STH


def valid(text: str) -> str:
    """The text with lone surrogates replaced, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _mean_by_length(vector_SH: np.ndarray, tokens: Tokens) -> np.ndarray:
    """Vectors of sequences averaged over those of a row, each weighing as many tokens as it has."""
    if len(tokens.ids) == tokens.rows:
        return vector_SH
    weight_S = tokens.lengths_S / tokens.lengths_R[tokens.row_S]
    sum_NH = np.zeros((tokens.rows, vector_SH.shape[1]), dtype=np.float64)
    np.add.at(sum_NH, tokens.row_S, vector_SH * weight_S[:, None])
    return sum_NH.astype(np.float32)
