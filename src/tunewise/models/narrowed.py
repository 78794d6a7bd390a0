"""A decoder whose last layer is computed only at the tokens whose hidden states are read.

Of that layer the other tokens need keys and values only, which those that are read look at: where one token of 66 is
read, six sevenths of a Llama's layer are left out.

Axes: N tokens of a pass, S those that are read, F numbers of each.
"""

from typing import Any

from torch import Tensor, nn

from tunewise.models.tree import shared_tree
from tunewise.models.tree_attention import wanted

TOKENWISE = ("mlp", "q_proj", "o_proj", "out_proj", "dense", "c_proj")
"""What works token by token and is not needed for keys and values, as Llama, GPT-2 and their kin name it."""


def narrowed(model: nn.Module) -> nn.Module:
    """The model over the same weights, whose outputs mean something at the tokens that a pass wants, and only there."""
    tree = shared_tree(model)
    last = _last_layer(tree)
    if last is not None:
        _narrow(last)
    return tree


def last_modules(model: nn.Module) -> frozenset[nn.Module]:
    """All modules of a model's last layer; none, where it is not known which that is."""
    last = _last_layer(model)
    return frozenset() if last is None else frozenset(last.modules())


def _last_layer(tree: Any) -> nn.Module | None:
    layers = int(tree.config.num_hidden_layers)
    stacks = [module for module in tree.children() if isinstance(module, nn.ModuleList) and len(module) == layers]
    return stacks[0][-1] if len(stacks) == 1 else None


def _narrow(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if name in TOKENWISE:
            setattr(module, name, _AtWanted(child))
        else:
            _narrow(child)


class _AtWanted(nn.Module):
    """A part that works token by token, computed at the wanted tokens; zeros elsewhere."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, input_1NF: Tensor) -> Tensor:
        wanted_S = wanted()
        if wanted_S is None:
            whole: Tensor = self.part(input_1NF)
            return whole
        output_1SF: Tensor = self.part(input_1NF[:, wanted_S])
        zeros = output_1SF.new_zeros(1, input_1NF.shape[1], output_1SF.shape[-1])
        return zeros.index_copy_(1, wanted_S, output_1SF)
