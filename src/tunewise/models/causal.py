"""A base that writes: a decoder with its reading of the vocabulary (GPT, Llama and their kin).

It is an encoder too: its last hidden states, pooled, are what heads, neighbour searches and adapters work on.

Axes: S places, H hidden, V vocabulary.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.models.asked import added_before, common_start, ends_of
from tunewise.models.encoder import BaseInfo, Batch, Tokens, collate
from tunewise.models.prefix_tree import Request
from tunewise.models.tree import Given, with_body
from tunewise.models.writing_base import Lesson, WritingBase


class Causal(WritingBase):
    """A frozen decoder with its tokenizer; `model` is its body, `read` goes from hidden states to the vocabulary."""

    task_type = "CAUSAL_LM"

    def __init__(self, info: BaseInfo, model: Any, tokenizer: Any) -> None:
        """`model`: as transformers' AutoModelForCausalLM loads it."""
        body: nn.Module = getattr(model, model.base_model_prefix)
        super().__init__(info, body, tokenizer)
        self.whole: nn.Module = model.eval().requires_grad_(False)
        self._reader = with_body(model, Given())
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.start_ids: tuple[int, ...] = added_before(tokenizer)
        self.end_ids: tuple[int, ...] = ends_of(model, tokenizer)
        self.origin: Causal = self
        """The base as it was loaded, also of what was made of it."""

    @property
    def body(self) -> nn.Module:
        return self.model

    def prompt_ids(self, prompts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([*self.start_ids, *ids], dtype=np.int64) for ids in self.text_ids(prompts)]

    def room(self, answer_tokens: int) -> int:
        return self.info.max_tokens - answer_tokens - len(self.start_ids)

    def requests(self, prompt: str, answers: Sequence[str], *, end: bool = False) -> list[Request]:
        """Prompt and answer are one text; where an answer joins the prompt's last token, all are scored from before."""
        alone, *whole = self.text_ids([prompt, *(prompt + answer for answer in answers)])
        return self._after(alone, whole, self.end_ids[:1] if end else ())

    def _after(self, prompt: Sequence[int], whole: Sequence[Sequence[int]], end: Sequence[int]) -> list[Request]:
        shared = min(common_start(prompt, answered) for answered in whole)
        # something must be read before the first word
        shared = max(shared, 0 if self.start_ids else 1)
        return [
            Request(np.array([*self.start_ids, *answered[:shared]]), np.array([*answered[shared:], *end]))
            for answered in whole
        ]

    def fits(self, request: Request) -> bool:
        return len(request.context) + len(request.continuation) <= self.info.max_tokens

    def forward(self, batch: Batch) -> Tensor:
        """As for every encoder; keys and values are not kept."""
        hidden_STH: Tensor = self.model(
            input_ids=batch.input_ids_ST, attention_mask=batch.attention_mask_ST, use_cache=False
        ).last_hidden_state
        return hidden_STH

    def in_chat(self, end: str | None) -> Self:
        """The base as it reads what a chat template wrote, which begins and ends texts itself; the same each time.

        `end`: the token that ends a turn of the assistant.
        """
        owner, views = vars(self).get("_views", (None, {}))
        if owner is not self:  # a copy of a base brings the views of the original along, with its modules and limits
            views = {}
            self._views: tuple[Causal, dict[str | None, Self]] = (self, views)
        found: Self | None = views.get(end)
        if found is None or found.body is not self.body:
            found = copy.copy(self)
            found.start_ids = ()
            if end is not None:
                found.end_ids = tuple(dict.fromkeys([self.text_ids([end])[0][-1], *self.end_ids]))
                found.label_end = end
            views[end] = found
        return found

    def output_rows(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Float32 rows [tokens, H] and biases [tokens] of the layer that reads the vocabulary off hidden states."""
        layer: Any = self.whole.get_output_embeddings()  # type: ignore[operator]
        at = torch.tensor(list(ids), device=layer.weight.device)
        bias = getattr(layer, "bias", None)
        bias_S = torch.zeros(len(at)) if bias is None else bias.detach()[at]
        return layer.weight.detach()[at].float().cpu().numpy(), bias_S.float().cpu().numpy()

    @property
    def above(self) -> str:
        return f"{self.whole.base_model_prefix}."

    def over(self, whole: nn.Module) -> Self:
        base = copy.copy(self)
        base.whole, base.model = whole, getattr(whole, self.above[:-1])
        base._reader = with_body(whole, Given())
        return base

    def lesson(self, requests: Sequence[Request]) -> Lesson:
        """Prompt and answer are one text; each token is foreseen from the one before it."""
        read = [request.read for request in requests]
        tokens = Tokens(ids=read, types=None, row_S=np.arange(len(read)), rows=len(read))
        first = [len(request.context) - 1 for request in requests]
        return Lesson(
            batch=collate(tokens, range(len(read)), pad_id=self.pad_id, device=self.device),
            row_N=np.repeat(np.arange(len(read)), [len(request.continuation) for request in requests]),
            place_N=np.concatenate(
                [start + np.arange(len(r.continuation)) for start, r in zip(first, requests, strict=True)]
            ),
            token_N=np.concatenate([request.continuation for request in requests]),
        )

    def lengths(self, requests: Sequence[Request]) -> np.ndarray:
        return np.array([len(request.context) + len(request.continuation) - 1 for request in requests], dtype=np.int64)

    @property
    def read_weights(self) -> list[nn.Parameter]:
        return list(self._reader.parameters())

    def at_answer(self) -> Self:
        """The base with, for vectors of texts, what it writes the next token from."""
        view = copy.copy(self)
        view.info = dataclasses.replace(self.info, pooling="last", normalize=False)
        return view

    def read(self, hidden_SH: Tensor) -> Tensor:
        """Logits [S, V] of the next token after each of these last hidden states, as the whole model computes them."""
        logits: Tensor = self._reader(inputs_embeds=hidden_SH[None]).logits
        return logits.squeeze(0)
