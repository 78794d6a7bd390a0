"""A second module tree over the same weights, so that adapters never touch the base that others share."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


def shared_tree(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the modules of `model` whose weights are the very same tensors, or copies in `dtype` where it differs.

    Replacing modules or parameters in the copy leaves `model` as it is; buffers keep their precision.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    if dtype is not None:
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dtype != dtype:
                memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(model, memo)


class Given(nn.Module):
    """In the place of a model's body: hands on, as its last hidden states, what it is given for embeddings."""

    def forward(self, *args: Any, inputs_embeds: Any, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def with_body(model: Any, body: nn.Module) -> nn.Module:
    """The model's own modules, but with `body` in the place of its body."""
    tree: nn.Module = copy.copy(model)
    tree._modules = {**model._modules, str(model.base_model_prefix): body}
    return tree
