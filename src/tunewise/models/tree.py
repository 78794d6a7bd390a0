"""A second module tree over the same weights, so that adapters never touch the base that others share."""

import copy
from itertools import chain

import torch
from torch import nn


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
