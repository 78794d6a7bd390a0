"""A base that reads with an encoder and answers with a decoder: T5, BART and their kin.

A prompt is what the encoder reads, an answer what the decoder writes. As an encoder it is its own encoder: the last
hidden states of the text, pooled, are what heads, neighbour searches and adapters work on.

Axes: S places, H hidden, V vocabulary.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from tunewise.errors import ModelError
from tunewise.models.asked import added_around, added_before, ends_of
from tunewise.models.encoder import BaseInfo
from tunewise.models.prefix_tree import Request
from tunewise.models.tokens import Batch, Tokens, collate
from tunewise.models.tree import Given
from tunewise.models.writing_base import Lesson, WritingBase

READ_AT_ONCE = 64
"""Hidden states for which the vocabulary is read at once, to find the rows of the layer that reads it."""


class EncoderOnly(nn.Module):
    """The encoder, its modules named as in the whole model."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.encoder.get_input_embeddings()
        return table

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.encoder.set_input_embeddings(table)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The encoder's output; its last hidden states [S, T, H] are the text's.

        Raises:
            TypeError: there is something in front of the layers' keys and values, which BART's encoder would ignore.
        """
        if options.pop("past_key_values", None) is not None:
            raise TypeError("an encoder keeps no keys and values, so that none can be put in front of them")
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **options)


class EncoderDecoder(EncoderOnly):
    """Encoder and decoder without the layer that reads the vocabulary."""

    def __init__(self, encoder: Any, decoder: Any) -> None:
        super().__init__(encoder)
        self.decoder = decoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The decoder's output for its tokens after a text; without such tokens, the encoder's."""
        if decoder_input_ids is None:
            return super().forward(input_ids, attention_mask, inputs_embeds, **options)
        assert input_ids is not None, "a text that is answered is given by its ids"
        assert attention_mask is not None
        encoded, mask = self.encode(input_ids, attention_mask)
        return self.decoder(
            input_ids=decoder_input_ids, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        )

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder sees of texts, and where: what an adapter puts before them, too."""
        encoded: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        before = encoded.shape[1] - mask.shape[1]
        return encoded, torch.cat([mask.new_ones(len(mask), before), mask], dim=1) if before else mask

    def decode(self, ids: Tensor, *, encoded: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Last hidden states of the decoder for these of its tokens, after those that are in the cache."""
        hidden: Tensor = self.decoder(
            input_ids=ids,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return hidden


class AtAnswer(EncoderDecoder):
    """Encoder and decoder up to where an answer begins."""

    def __init__(self, encoder: Any, decoder: Any, start: Sequence[int]) -> None:
        super().__init__(encoder, decoder)
        self.start = tuple(start)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> BaseModelOutput:  # type: ignore[override]
        """For last hidden states [S, 1, H], those of the decoder from which the first token is foreseen."""
        encoded, mask = self.encode(input_ids, attention_mask)
        start = torch.tensor([self.start] * len(encoded), device=encoded.device)
        return BaseModelOutput(last_hidden_state=self.decode(start, encoded=encoded, mask=mask)[:, -1:])


class Seq2Seq(WritingBase):
    """A frozen encoder-decoder with its tokenizer; `model` is its encoder, or both where texts are learnt."""

    task_type = "SEQ_2_SEQ_LM"

    def __init__(self, info: BaseInfo, model: Any, tokenizer: Any) -> None:
        """`model`: as transformers' AutoModelForSeq2SeqLM loads it.

        Raises:
            ModelError: its files do not say what its decoder starts from.
        """
        inner = _inner(model)
        super().__init__(info, EncoderOnly(inner.encoder), tokenizer)
        self.whole: nn.Module = model.eval().requires_grad_(False)
        self._reader = _reader_of(model)
        self._for_texts: Seq2Seq | None = None
        self.origin: Seq2Seq = self
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.start_ids, self._close_ids = added_around(self._backend)
        self.end_ids = ends_of(model, tokenizer)
        self.label_end = tokenizer.eos_token or ""
        start, forced = _stated(model, "decoder_start_token_id"), _stated(model, "forced_bos_token_id")
        if start is None:
            raise ModelError(
                f"{info.name}: neither config.json nor generation_config.json has a `decoder_start_token_id`, so it is "
                "not known what its answers start from. Add it."
            )
        self.lead_ids: tuple[int, ...] = (start,) if forced is None else (start, forced)
        """What the decoder reads before every answer."""
        first = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {forced}
        self._before_ids = tuple(i for i in added_before(tokenizer) if i in first)
        """What begins every answer, and is foreseen as the rest of it is."""

    def for_texts(self) -> Self:
        """The base with encoder and decoder for its `model`, always the same one."""
        if isinstance(_pair_in(self.model), EncoderDecoder):
            return self
        if self._for_texts is None or self._for_texts.whole is not self.whole:
            self._for_texts = self.over(self.whole)
        found: Any = self._for_texts
        return found  # type: ignore[no-any-return]

    @property
    def above(self) -> str:
        return "" if _inner(self.whole) is self.whole else f"{self.whole.base_model_prefix}."

    def over(self, whole: nn.Module) -> Self:
        base = copy.copy(self)
        inner = _inner(whole)
        base.whole, base.model, base._for_texts = whole, EncoderDecoder(inner.encoder, inner.decoder), None
        base._reader = _reader_of(whole)
        return base

    @property
    def body(self) -> EncoderDecoder:
        """Where a library has wrapped the modules, what is inside: its changes are there."""
        found = _pair_in(self.model)
        return self.for_texts().body if found is None else found

    def lesson(self, requests: Sequence[Request]) -> Lesson:
        """The encoder reads prompts, the decoder its start and all of the answers but their last tokens."""
        contexts = [request.context for request in requests]
        tokens = Tokens(ids=contexts, types=None, row_S=np.arange(len(contexts)), rows=len(contexts))
        batch = collate(tokens, range(len(contexts)), pad_id=self.pad_id, device=self.device)
        read = [np.concatenate([self.lead_ids, request.continuation[:-1]]) for request in requests]
        ids_SN = np.full((len(read), max(map(len, read))), self.pad_id, dtype=np.int64)
        for row, ids in enumerate(read):
            ids_SN[row, : len(ids)] = ids
        wanted = [len(request.continuation) for request in requests]
        return Lesson(
            batch=dataclasses.replace(batch, answer_ids_SN=torch.from_numpy(ids_SN).to(self.device)),
            row_N=np.repeat(np.arange(len(read)), wanted),
            place_N=np.concatenate([len(self.lead_ids) - 1 + np.arange(count) for count in wanted]),
            token_N=np.concatenate([request.continuation for request in requests]),
        )

    def lengths(self, requests: Sequence[Request]) -> np.ndarray:
        """Of encoder and decoder together."""
        lead = len(self.lead_ids) - 1
        return np.array([len(r.context) + lead + len(r.continuation) for r in requests], dtype=np.int64)

    @property
    def read_weights(self) -> list[nn.Parameter]:
        layer: Any = self.whole.get_output_embeddings()  # type: ignore[operator]
        return list(layer.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """Last hidden states of the encoder [S, T, H]; with answers in the batch, of the decoder [S, N, H]."""
        if batch.answer_ids_SN is None:
            return super().forward(batch)
        hidden_SNH: Tensor = self.model(
            input_ids=batch.input_ids_ST,
            attention_mask=batch.attention_mask_ST,
            decoder_input_ids=batch.answer_ids_SN,
        ).last_hidden_state
        return hidden_SNH

    def prompt_ids(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """The encoder's input of each; where a tokenizer makes nothing of a text, padding, which is seen."""
        return [
            np.array([*self.start_ids, *ids, *self._close_ids] or [self.pad_id], dtype=np.int64)
            for ids in self.text_ids(prompts)
        ]

    def room(self, answer_tokens: int) -> int:
        """Prompt and answer do not share a limit: each has all of it."""
        before_answer = len(self.lead_ids) + len(self._before_ids)
        if before_answer + answer_tokens > self.info.max_tokens:
            return 0
        return self.info.max_tokens - len(self.start_ids) - len(self._close_ids)

    def requests(self, prompt: str, answers: Sequence[str], *, end: bool = False) -> list[Request]:
        """The context of each is what the encoder reads; an answer begins a text of its own, without a space."""
        (context,) = self.prompt_ids([prompt])
        ends = self.end_ids[:1] if end else ()
        own = self.text_ids([answer.lstrip(" ") for answer in answers])
        return [Request(context, np.array([*self._before_ids, *ids, *ends], dtype=np.int64)) for ids in own]

    def fits(self, request: Request) -> bool:
        written = len(self.lead_ids) + len(request.continuation) - 1
        return max(len(request.context), written) <= self.info.max_tokens

    def read(self, hidden_SH: Tensor) -> Tensor:
        """Logits [S, V] of the next token after each of the decoder's last hidden states, as the whole model's."""
        nothing = BaseModelOutput(last_hidden_state=hidden_SH[None, :1])
        logits: Tensor = self._reader(encoder_outputs=nothing, decoder_inputs_embeds=hidden_SH[None]).logits
        return logits.squeeze(0)

    def at_answer(self) -> Self:
        """The base with, for vectors of texts, what its decoder foresees the first token of an answer from."""
        if isinstance(self.model, AtAnswer):
            return self
        view, start = copy.copy(self), (*self.lead_ids, *self._before_ids)
        inner = _inner(self.whole)
        view.model, view.answer_positions = AtAnswer(inner.encoder, inner.decoder, start), len(start)
        view.info = dataclasses.replace(self.info, pooling="cls", normalize=False)
        return view

    def output_rows(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Float32 rows [tokens, H] and biases [tokens] of what reads the vocabulary off hidden states.

        Scaling between the two is in the rows: they are what a step along each hidden number changes.
        """
        at = torch.tensor(list(ids), device=self.device)
        with torch.no_grad():
            none_1H = torch.zeros(1, self.info.hidden_size, dtype=self.dtype, device=self.device)
            bias_S = self.read(none_1H)[0, at].float()
            steps_HH = torch.eye(self.info.hidden_size, dtype=self.dtype, device=self.device)
            parts = [self.read(some)[:, at].float() - bias_S for some in torch.split(steps_HH, READ_AT_ONCE)]
        return torch.cat(parts).T.cpu().numpy(), bias_S.cpu().numpy()


def _pair_in(model: nn.Module) -> EncoderDecoder | None:
    """Encoder and decoder in what an adapter has made of them; None where `model` is an encoder alone."""
    return next((module for module in model.modules() if isinstance(module, EncoderDecoder)), None)


def _inner(model: Any) -> Any:
    """What has encoder and decoder: the model itself (T5), or its body (BART)."""
    return model if hasattr(model, "decoder") else getattr(model, model.base_model_prefix)


def _reader_of(model: Any) -> nn.Module:
    """The model's own modules, but with a decoder that hands on what it is given, and no encoder."""
    inner = copy.copy(_inner(model))
    inner._modules = {**inner._modules, "encoder": nn.Identity(), "decoder": Given()}
    if _inner(model) is model:
        reader: nn.Module = inner
        return reader
    reader = copy.copy(model)
    reader._modules = {**model._modules, str(model.base_model_prefix): inner}
    return reader


def _stated(model: Any, name: str) -> int | None:
    """What the files say of a token: of writing before those of the architecture."""
    for config in (getattr(model, "generation_config", None), model.config):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return None
