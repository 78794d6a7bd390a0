"""One member whose weights are trained, all or the last blocks': masters in fp32, products in the working dtype.

Only rows of the embedding table whose tokens occur in the data can ever get a gradient; only they are trained and kept
here, which is exact (AdamW moves a row without gradients by weight decay alone, and embeddings have none).
Axes: V tokens of the vocabulary, U tokens in use, H hidden, N trainable numbers.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunewise.models.encoder import Batch, Encoder
from tunewise.models.tree import shared_tree
from tunewise.models.writing_base import WritingBase
from tunewise.seeding import derive
from tunewise.training.added import AddedLinear
from tunewise.training.flat import Flat, Group
from tunewise.training.frozen import LowerBlocks, block_number, blocks_of
from tunewise.training.population import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    WORK_FORWARD,
    WORK_FULL,
    HeadStart,
    Key,
    head_logits,
    head_start,
    pooled,
    without_head,
)
from tunewise.training.precision import cast_writer, master_dtype


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
        self.scale = float(getattr(table, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the tokens; an IndexError where a token was not named as used."""
        place_V: Tensor = self.get_buffer("place_V")
        return F.embedding(place_V[ids], self.weight, self.padding_idx) * self.scale


class FullPopulation:
    """A population of one: its own copy of every weight, in a module tree of its own."""

    work_per_token = WORK_FULL

    def __init__(
        self,
        base: Encoder,
        head: HeadStart | None,
        *,
        used_tokens: np.ndarray,
        dtype: torch.dtype,
        seed: int = 0,
        base_dropout: bool = False,
        unit_length: bool = False,
        layer_decay: float = 1.0,
        checkpointing: bool = False,
        lower: LowerBlocks | None = None,
    ) -> None:
        """`head`: None where texts are learnt, of a base that writes; its reading of the vocabulary is trained then.

        `used_tokens`: every token id that will ever be read here, in training and in scoring.

        The rate of a block is that of the block above times `layer_decay`; the embeddings come below the lowest.
        `checkpointing`: keep only what enters a block, and compute the block again in the backward pass.
        `lower`: what stands in for the blocks that are not trained; embeddings then are not trained either.

        Raises:
            ModelError: the blocks of this base cannot be told apart, and an option needs that.
        """
        self.base, self.dtype, self.seed = base, dtype, seed
        self.base_dropout, self.unit_length = base_dropout, unit_length
        self.lower, self.layer_decay = lower, layer_decay
        self._writes = head is None
        self._above = base.above if head is None and lower is None and isinstance(base, WritingBase) else ""
        """What stands before the names of the body's weights, where those of the whole model are trained."""
        self.work_per_token = WORK_FULL + WORK_FORWARD if checkpointing else WORK_FULL
        if lower is None:
            self.encoder, self.tree = self._own_modules(used_tokens, writes=head is None)
            masters = dict(self.tree.named_parameters())
        else:
            self.encoder = copy.copy(base if head is not None else cast_writer(base, dtype))
            self.encoder.model = self.tree = lower.attach(shared_tree(base.model, dtype))
            upper = tuple(f"{path}." for path, _ in lower.upper(self.tree))
            masters = {name: own for name, own in base.model.named_parameters() if name.startswith(upper)}
        self._names = _names_of(self.tree, masters)
        if checkpointing:
            for block in self._trained_blocks():
                _compute_again(block)
        wide = master_dtype(dtype)
        start = {name: parameter[None] for name, parameter in masters.items()}
        start.update(head_start(head, 1, base.info.hidden_size, wide, torch.device(base.device)))
        self.flat = Flat(start, group=self._group, dtype=wide)
        self._work_1N: Tensor | None = None
        """Weights in the working dtype, where that is not the masters'; and their gradients."""
        self._slope_1N: Tensor | None = None
        self._leaves: dict[str, Tensor] = {}

    def _own_modules(self, used_tokens: np.ndarray, *, writes: bool) -> tuple[Encoder, nn.Module]:
        """The base over modules of its own, and the tree of all that is trained."""
        if writes:
            assert isinstance(self.base, WritingBase)
            tree = shared_tree(self.base.whole)
            reader = tree.get_output_embeddings()  # type: ignore[operator]
            if isinstance(reader, nn.Linear):
                tree.set_output_embeddings(AddedLinear(reader))  # type: ignore[operator]
            encoder: Encoder = self.base.over(tree)
        else:
            tree = shared_tree(self.base.model)
            encoder = copy.copy(self.base)
            encoder.model = tree
        table: nn.Embedding = encoder.model.get_input_embeddings()  # type: ignore[operator]
        places = [own for _, own in tree.named_parameters(remove_duplicate=False) if own is table.weight]
        if len(places) > 1:
            # what reads the vocabulary, or a decoder, has the same table, and may use every row of it
            self._used_U = torch.arange(table.num_embeddings, device=table.weight.device)
            for module in tree.modules():
                if isinstance(module, nn.Embedding) and module.weight is table.weight:
                    module.sparse = True  # what a pass reads of it is little, and is added to the gradient in place
        else:
            ids = set(map(int, used_tokens)) | {self.base.pad_id}
            if table.padding_idx is not None:
                ids.add(table.padding_idx)
            self._used_U = torch.tensor(sorted(ids), device=table.weight.device)
            encoder.model.set_input_embeddings(UsedEmbedding(table, self._used_U))  # type: ignore[operator]
            table = encoder.model.get_input_embeddings()  # type: ignore[operator]
        self._table_name = next(name for name, own in tree.named_parameters() if own is table.weight)
        return encoder, tree

    def _trained_blocks(self) -> list[nn.Module]:
        if self.lower is not None:
            return [block for _, block in self.lower.upper(self.tree)]
        return list(blocks_of(self.encoder.model)[1])

    def _group(self, name: str, tensor: Tensor) -> Group:
        """Matrices decay; biases, norms and embeddings of tokens do not."""
        decays = tensor.dim() > 2 and (self.lower is not None or name != self._table_name)
        return Group(decays=decays, rate=self._rate(name))

    def _rate(self, name: str) -> float:
        if self.layer_decay == 1.0 or name in (HEAD_WEIGHT, HEAD_BIAS):
            return 1.0
        path, blocks = blocks_of(self.encoder.model)
        number = block_number(name.removeprefix(self._above), path)
        if number is not None:
            return self.layer_decay ** (len(blocks) - 1 - number)
        # what is in no block comes before them, as embeddings of all kinds do, or after them, as a last norm does
        return self.layer_decay ** len(blocks) if "embed" in name else 1.0

    def _bind(self) -> None:
        """Put this member's weights into its module tree, ready to be trained."""
        if self.dtype == self.flat.values_PN.dtype:
            buffer_1N = self.flat.values_PN
        else:
            buffer_1N = self._work_1N = self.flat.values_PN.to(self.dtype)
        values, working = self.flat.views(self.flat.values_PN), self.flat.views(buffer_1N)
        for name, tensor in values.items():
            if name in self._names:
                self._leaves[name] = _put(self.tree, self._names[name], working[name][0], trained=True)
            else:
                self._leaves[name] = tensor[0].detach().requires_grad_()

    @property
    def size(self) -> int:
        return self.flat.size

    def trainable_parameters(self, member: int) -> int:
        """All of the base's and the head's, those of tokens that do not occur among them; or of what is trained."""
        if self.lower is not None:
            return self.flat.numbers
        table: Tensor = self.base.model.get_input_embeddings().weight  # type: ignore[operator]
        return self.flat.numbers + (len(table) - len(self._used_U)) * table.shape[1]

    def logits(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        vector_RH = self.vectors(batch, key)
        return head_logits(vector_RH[None], self._leaves[HEAD_WEIGHT][None], self._leaves[HEAD_BIAS][None])

    def vectors(self, batch: Batch, key: Key | None) -> Tensor:
        """[R, H], what the head reads; `key` is None where nothing is random (scoring)."""
        return pooled(self.encoder, batch, self.hidden(batch, [0], key), unit_length=self.unit_length)

    def hidden(self, batch: Batch, active: Sequence[int], key: Key | None) -> Tensor:
        if not self._leaves:
            self._bind()
        if key is None or not self.base_dropout:
            return self.encoder.forward(batch)
        return self._with_dropout(batch, key)

    def _with_dropout(self, batch: Batch, key: Key) -> Tensor:
        """Hidden states with the base's own dropout, whose masks come from (seed, step, first sequence)."""
        device = batch.input_ids_ST.device
        # what is not trained answers as it does where its states are kept
        modules = [self.encoder.model] if self.lower is None else self._trained_blocks()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive(self.seed, "dropout", key.step, int(key.sequence_S[0])))
            for module in modules:
                module.train()
            try:
                return self.encoder.forward(batch)
            finally:
                self.encoder.model.eval()

    def start_step(self) -> None:
        """Backward passes add to the flat buffer themselves, or to one in the working dtype."""
        if not self._leaves:
            self._bind()
        self.flat.forget()
        if self._work_1N is not None:
            self._slope_1N = torch.zeros_like(self._work_1N) if self._slope_1N is None else self._slope_1N.zero_()
        places = self.flat.views(self.flat.grads_PN)
        if self._slope_1N is not None:
            places |= without_head(self.flat.views(self._slope_1N))
        for name, leaf in self._leaves.items():
            leaf.grad = places[name][0]

    def gather(self) -> None:
        if self._slope_1N is not None:
            self.flat.grads_PN.add_(self._slope_1N)
            self._slope_1N.zero_()

    def refresh(self) -> None:
        if self._work_1N is not None:
            self._work_1N.copy_(self.flat.values_PN)

    def release(self) -> None:
        """Drop gradients and working copies; the masters stay, and the next pass takes the rest up again."""
        self._work_1N, self._slope_1N, self._leaves = None, None, {}
        self.flat.release()
        for name, tensor in without_head(self.flat.views(self.flat.values_PN)).items():
            _put(self.tree, self._names[name], tensor[0], trained=False)

    def keep(self, indices: Sequence[int]) -> None:
        self.flat.keep(indices)
        self.release()

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        """Every weight of the base by its own name (the embedding table whole again) and the head.

        Where texts are learnt, names are those of the whole model, with its reading of the vocabulary.
        """
        tensors = self.flat.member(row_N)
        if self.lower is not None:
            return self._with_lower(tensors, row_N.dtype)
        table: Tensor = self.base.model.get_input_embeddings().weight.detach()  # type: ignore[operator]
        if len(self._used_U) < len(table):
            whole_VH = table.to(row_N.dtype).clone()
            whole_VH[self._used_U] = tensors[self._table_name].to(whole_VH.dtype)
            tensors[self._table_name] = whole_VH
        return tensors

    def _with_lower(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        tree, above = self.base.model, ""
        if self._writes:
            assert isinstance(self.base, WritingBase)
            tree, above = self.base.whole, self.base.above
        frozen = {name: own.detach().to(dtype) for name, own in tree.named_parameters()}
        return frozen | {
            name if name in (HEAD_WEIGHT, HEAD_BIAS) else above + name: own for name, own in tensors.items()
        }


def _names_of(tree: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """All names in the tree of each parameter: a tied one has several."""
    places: dict[int, list[str]] = {}
    for name, own in tree.named_parameters(remove_duplicate=False):
        places.setdefault(id(own), []).append(name)
    known = dict(tree.named_parameters())
    return {name: places[id(known[name])] for name in masters}


def _compute_again(block: nn.Module) -> None:
    """Let the block keep its input only, and be computed again, with the same dropout, in the backward pass."""
    forward = block.forward

    def once_more(*args: Any, **kwargs: Any) -> Any:
        training = block.training

        def as_before(*args: Any, **kwargs: Any) -> Any:
            # by the time of the backward pass the model is in evaluation mode again
            now = block.training
            block.train(training)
            try:
                return forward(*args, **kwargs)
            finally:
                block.train(now)

        return checkpoint(as_before, *args, use_reentrant=False, preserve_rng_state=training, **kwargs)

    block.forward = once_more


def _put(model: nn.Module, names: Sequence[str], tensor: Tensor, *, trained: bool) -> nn.Parameter:
    """Make `tensor` the parameter with these names, sharing its memory."""
    parameter = nn.Parameter(tensor, requires_grad=trained)
    for name in names:
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._parameters[last] = parameter
    return parameter
