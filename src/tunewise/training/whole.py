"""One member whose every weight is trained: masters in fp32, products in the working dtype.

Only rows of the embedding table whose tokens occur in the data can ever get a gradient; only they are trained and kept
here, which is exact (AdamW moves a row without gradients by weight decay alone, and embeddings have none).
Axes: V tokens of the vocabulary, U tokens in use, H hidden, N trainable numbers.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewise.models.encoder import Batch, Encoder
from tunewise.models.tree import shared_tree
from tunewise.seeding import derive
from tunewise.training.flat import Flat, Group
from tunewise.training.population import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    WORK_FULL,
    HeadStart,
    Key,
    head_logits,
    pooled,
    split_head,
)
from tunewise.training.precision import master_dtype


class UsedEmbedding(nn.Module):
    """The rows of an embedding table that are in use, looked up by the ids of the whole vocabulary."""

    def __init__(self, table: nn.Embedding, used_U: Tensor) -> None:
        super().__init__()
        self.used_U = used_U
        place_V = torch.full((table.num_embeddings,), -1, dtype=torch.int64, device=used_U.device)
        place_V[used_U] = torch.arange(len(used_U), device=used_U.device)
        self.register_buffer("place_V", place_V, persistent=False)
        self.weight = nn.Parameter(table.weight.detach()[used_U], requires_grad=False)
        padding = table.padding_idx
        self.padding_idx = None if padding is None else int(place_V[padding])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the tokens; an IndexError where a token was not named as used."""
        place_V: Tensor = self.get_buffer("place_V")
        return F.embedding(place_V[ids], self.weight, self.padding_idx)


class FullPopulation:
    """A population of one: its own copy of every weight, in a module tree of its own."""

    work_per_token = WORK_FULL

    def __init__(
        self,
        base: Encoder,
        head: HeadStart,
        *,
        used_tokens: np.ndarray,
        dtype: torch.dtype,
        seed: int = 0,
        base_dropout: bool = False,
        unit_length: bool = False,
    ) -> None:
        """`used_tokens`: every token id that will ever be read here, in training and in scoring."""
        self.base, self.dtype, self.seed = base, dtype, seed
        self.base_dropout, self.unit_length = base_dropout, unit_length
        self.encoder = copy.copy(base)
        self.encoder.model = self._tree(used_tokens)
        wide = master_dtype(dtype)
        start = {name: parameter[None].to(wide) for name, parameter in self.encoder.model.named_parameters()}
        start.update(head.tensors(1, base.info.hidden_size, wide, torch.device(base.device)))
        self.flat = Flat(start, group=lambda name, tensor: Group(decays=self._decays(name, tensor)))
        self._work_1N: Tensor | None = None
        self._leaves: dict[str, Tensor] = {}
        self._fresh = True

    def _tree(self, used_tokens: np.ndarray) -> nn.Module:
        model = shared_tree(self.base.model)
        table = model.get_input_embeddings()  # type: ignore[operator]
        ids = set(map(int, used_tokens))
        if table.padding_idx is not None:
            ids.add(table.padding_idx)
        ids.add(self.base.pad_id)
        used_U = torch.tensor(sorted(ids), device=table.weight.device)
        model.set_input_embeddings(UsedEmbedding(table, used_U))  # type: ignore[operator]
        self._table_name = next(n for n, m in model.named_modules() if isinstance(m, UsedEmbedding)) + ".weight"
        self._used_U = used_U
        return model

    def _decays(self, name: str, tensor: Tensor) -> bool:
        """Matrices decay; biases, norms and embeddings of tokens do not."""
        return tensor.dim() > 2 and name != self._table_name

    def _bind(self) -> None:
        """Put this member's weights into its module tree, ready to be trained."""
        if self.dtype == self.flat.values_PN.dtype:
            buffer_1N = self.flat.values_PN
        else:
            buffer_1N = self._work_1N = self.flat.values_PN.to(self.dtype)
        masters, head_1LH, bias_1L = split_head(self.flat.views(self.flat.values_PN))
        working = self.flat.views(buffer_1N)
        for name in masters:
            self._leaves[name] = _put(self.encoder.model, name, working[name][0], trained=True)
        for name, tensor in ((HEAD_WEIGHT, head_1LH), (HEAD_BIAS, bias_1L)):
            self._leaves[name] = tensor[0].detach().requires_grad_()

    @property
    def size(self) -> int:
        return self.flat.size

    @property
    def trainable_parameters(self) -> int:
        """All of the base's and the head's, those of tokens that do not occur among them."""
        table: Tensor = self.base.model.get_input_embeddings().weight  # type: ignore[operator]
        return self.flat.numbers + (len(table) - len(self._used_U)) * table.shape[1]

    def logits(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        if not self._leaves:
            self._bind()
        if key is None or not self.base_dropout:
            hidden_STH = self.encoder.forward(batch)
        else:
            hidden_STH = self._with_dropout(batch, key)
        vector_RH = pooled(self.encoder, batch, hidden_STH, unit_length=self.unit_length)
        return head_logits(vector_RH[None], self._leaves[HEAD_WEIGHT][None], self._leaves[HEAD_BIAS][None])

    def _with_dropout(self, batch: Batch, key: Key) -> Tensor:
        """Hidden states with the base's own dropout, whose masks come from (seed, step, first sequence)."""
        device = batch.input_ids_ST.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive(self.seed, "dropout", key.step, int(key.sequence_S[0])))
            self.encoder.model.train()
            try:
                return self.encoder.forward(batch)
            finally:
                self.encoder.model.eval()

    def start_step(self) -> None:
        self._fresh = True

    def gather(self) -> None:
        self.flat.collect(self._leaves, fresh=self._fresh)
        self._fresh = False

    def refresh(self) -> None:
        if self._work_1N is not None:
            self._work_1N.copy_(self.flat.values_PN)

    def release(self) -> None:
        """Drop gradients and working copies; the masters stay, and the next pass takes the rest up again."""
        self._work_1N, self._leaves = None, {}
        self.flat.release()
        masters, _, _ = split_head(self.flat.views(self.flat.values_PN))
        for name, tensor in masters.items():
            _put(self.encoder.model, name, tensor[0], trained=False)

    def keep(self, indices: Sequence[int]) -> None:
        self.flat.keep(indices)
        self.release()

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        """Every weight of the base by its own name (the embedding table whole again) and the head."""
        tensors = self.flat.member(row_N)
        table: Tensor = self.base.model.get_input_embeddings().weight.detach()  # type: ignore[operator]
        whole_VH = table.to(row_N.dtype).clone()
        whole_VH[self._used_U] = tensors[self._table_name].to(whole_VH.dtype)
        tensors[self._table_name] = whole_VH
        return tensors


def _put(model: nn.Module, name: str, tensor: Tensor, *, trained: bool) -> nn.Parameter:
    """Make `tensor` the parameter called `name`, sharing its memory."""
    parameter = nn.Parameter(tensor, requires_grad=trained)
    module, _, last = name.rpartition(".")
    model.get_submodule(module)._parameters[last] = parameter
    return parameter
