"""Stacked biases: what hand-written hooks compute, members that do not see each other, files that come back."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tunewise.adapters.bitfit import BitfitForm, BitfitStack, biased_layers
from tunewise.adapters.files import load_adapter, save_adapter
from tunewise.adapters.stack import Member, NotStackable, Pass
from tunewise.errors import ModelError
from tunewise.methods.bitfit import Bitfit
from tunewise.models.tiny import ARCHITECTURES
from tunewise.models.tree import shared_tree


def stack_of(members):
    return lambda tree: BitfitStack(tree, [Member()] * members, targets=biased_layers(tree))


def with_biases(base, tensors, p):
    """The base, each layer's output moved from its own bias to the member's."""
    tree = shared_tree(base.model)
    for name, bias_PO in tensors.items():
        layer = tree.get_submodule(name.removesuffix(".bias"))
        own = 0.0 if layer.bias is None else layer.bias
        layer.register_forward_hook(lambda _, __, y, own=own, new=bias_PO[p]: y - own + new)
    return tree


def test_linear_layers_and_norms_of_the_blocks_are_targets(base_of):
    found = biased_layers(base_of("bert").model)
    assert len(found) == 2 * (6 + 2)
    assert all(".layer." in path for path in found)
    assert "encoder.layer.1.attention.output.LayerNorm" in found
    assert len(biased_layers(base_of("modernbert").model)) == 2 * (4 + 2) - 1, "its first block has one norm"


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_member_answers_as_the_base_with_its_biases(
    base_of, moved, hidden, stacked_hidden, architecture, members
):
    base, make = base_of(architecture), stack_of(members)
    tensors = moved(make(base.model))
    if architecture == "deberta-v2" and members > 1:
        with pytest.raises(NotStackable, match=r"bitfit: .* this base trains one member at a time"):
            stacked_hidden(base, make, tensors)
        return
    together = stacked_hidden(base, make, tensors)
    for p in range(members):
        assert float((together[p] - hidden(base, with_biases(base, tensors, p))).abs().max()) < 1e-5
        assert float((together[p] - hidden(base, base.model)).abs().max()) > 1e-2, "the biases must show"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_start_is_the_base(base_of, hidden, stacked_hidden, architecture):
    base, make = base_of(architecture), stack_of(1)
    started = stacked_hidden(base, make, make(base.model).start())[0]
    assert torch.equal(started, hidden(base, base.model))


def test_the_start_is_the_own_bias_of_the_base(base_of):
    base = base_of("bert")
    tree = shared_tree(base.model)
    path = "encoder.layer.0.attention.self.query"
    tree.get_submodule(path).bias = torch.nn.Parameter(torch.arange(32.0))
    start = stack_of(2)(tree).start()
    assert torch.equal(start[f"{path}.bias"], torch.arange(32.0).repeat(2, 1))


def test_gradients_equal_those_of_plain_autograd():
    tree = torch.nn.Sequential()
    tree.add_module("block", torch.nn.ModuleList([torch.nn.Linear(5, 7), torch.nn.LayerNorm(7)]).double())
    linear, norm = tree.block.requires_grad_(False)
    norm.weight.data = torch.randn(7, dtype=torch.float64)
    stack = BitfitStack(tree, [Member()] * 2, targets=("block.0", "block.1"))
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    first, second = (torch.randn(2, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    stack.bind({"block.0.bias": first, "block.1.bias": second})
    stack.now = Pass(active=(0, 1), sequences=3, positions=1)
    stack.attach(tree)
    plain = []
    for p in range(2):
        h = x[3 * p : 3 * p + 3] @ linear.weight.t() + first[p]
        plain.append(F.layer_norm(h, (7,), norm.weight, None, norm.eps) + second[p])
    target = torch.randn(6, 7, dtype=torch.float64)
    expected = torch.autograd.grad((torch.cat(plain) * target).sum(), [x, first, second])
    ours = torch.autograd.grad((tree.block[1](tree.block[0](x)) * target).sum(), [x, first, second])
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_member_of_three_ends_as_the_same_candidate_alone(ends_as_alone):
    ends_as_alone(lambda tree, members: BitfitStack(tree, members, targets=biased_layers(tree)))


def test_no_weight_decay_pulls_at_biases(base_of):
    stack = stack_of(1)(base_of("bert").model)
    assert not any(stack.decays(name) for name in stack.shapes())


@pytest.fixture
def saved(base_of, moved, tmp_path):
    tensors = {name: tensor[0] for name, tensor in moved(stack_of(1)(base_of("bert").model)).items()}
    save_adapter(tensors, BitfitForm(), tmp_path)
    return tensors, tmp_path


def test_saved_and_loaded_is_the_same(base_of, stacked_hidden, saved):
    tensors, folder = saved
    again, form = load_adapter(folder)
    assert form == BitfitForm()
    assert again.keys() == tensors.keys()
    answers = [
        stacked_hidden(
            base_of("bert"), lambda tree, own=own: form.stack(tree, own), {n: t[None] for n, t in own.items()}
        )
        for own in (tensors, again)
    ]
    assert torch.equal(*answers)


def test_damaged_and_foreign_files_are_refused(base_of, saved):
    _, folder = saved
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    assert json.loads(config.read_text())["peft_type"] == "BITFIT"
    stored = load_file(weights)
    name = next(iter(stored))
    save_file({key: tensor for key, tensor in stored.items() if key != name}, weights)
    with pytest.raises(ModelError, match="should hold the biases of its `target_modules`"):
        load_adapter(folder)
    save_file(stored | {"base_model.model.encoder.layer.0.output.dense.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(ModelError, match=r"holds '.*output.dense.weight' of shape \(2, 2\), which is no bias"):
        load_adapter(folder)


def test_biases_of_another_base_are_refused(base_of, saved):
    tensors, _ = saved
    with pytest.raises(ModelError, match=r"bitfit: '.*' is neither a linear layer nor a layer norm of DistilBertModel"):
        BitfitForm().stack(base_of("distilbert").model, tensors)
    name = "encoder.layer.0.output.dense.bias"
    wrong = {key: tensor[None] for key, tensor in tensors.items()} | {name: torch.zeros(1, 5)}
    stack = BitfitForm().stack(base_of("bert").model, tensors)
    with pytest.raises(ModelError, match=rf"bitfit: tensor '{name}' should have shape \(1, 32\), found \(1, 5\)"):
        stack.bind(wrong)


def test_a_base_without_known_blocks_is_skipped_with_a_sentence(tiny):
    base = copy.copy(tiny)
    base.model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Sequential()])})
    assert Bitfit().refuses(tiny) is None
    assert "bitfit: no linear layer of this base matches targets" in Bitfit().refuses(base)
