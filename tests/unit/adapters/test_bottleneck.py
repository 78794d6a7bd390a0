"""Stacked bottlenecks: what hand-written hooks compute at every placement, dropout per member, files that come back."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tunewise.adapters.bottleneck import BottleneckForm, BottleneckStack, adapted_layers
from tunewise.adapters.files import load_adapter, save_adapter
from tunewise.adapters.stack import Member, Pass
from tunewise.errors import ConfigError, ModelError
from tunewise.methods.adapter import Adapter, AdapterConfig
from tunewise.methods.base import Choice
from tunewise.models.tiny import ARCHITECTURES
from tunewise.models.tree import shared_tree

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
SCALES = (0.5, 1.0, 4.0)
FIRST = {"output.dense": "intermediate.dense", "ffn.lin2": "ffn.lin1", "mlp.Wo": "mlp.Wi"}


def stack_of(placement, members=1, activation="relu", **of_member):
    return lambda tree: BottleneckStack(
        tree,
        [Member(seed=p, scale=SCALES[p], **of_member) for p in range(members)],
        size=5,
        targets=adapted_layers(tree, placement),
        placement=placement,
        activation=activation,
    )


def one_of(tensors, p=0):
    return {name: tensor[p] for name, tensor in tensors.items()}


def with_bottlenecks(base, tensors, p, placement, act=torch.relu):
    """The base with hooks that add a small network to a layer's output."""
    tree, seen = shared_tree(base.model), {}

    def added(path, x):
        down, down_bias, up, up_bias = (tensors[f"{path}.{part}"][p] for part in ("down", "down_bias", "up", "up_bias"))
        return SCALES[p] * (act(x @ down + down_bias) @ up + up_bias)

    for path in sorted({name.rpartition(".")[0] for name in tensors}):
        if placement == "parallel":
            last = next(last for last in FIRST if path.endswith(last))
            first = tree.get_submodule(path.removesuffix(last) + FIRST[last])
            first.register_forward_pre_hook(lambda _, inputs, path=path: seen.update({path: inputs[0]}))
            read = lambda path, y: seen[path]  # noqa: E731
        else:
            read = lambda path, y: y  # noqa: E731
        tree.get_submodule(path).register_forward_hook(
            lambda _, __, y, path=path, read=read: y + added(path, read(path, y))
        )
    return tree


@pytest.mark.parametrize(
    ("architecture", "block", "attention", "feedforward"),
    [
        ("bert", "encoder.layer.1.", "attention.output.dense", "output.dense"),
        ("distilbert", "transformer.layer.1.", "attention.out_lin", "ffn.lin2"),
        ("deberta-v2", "encoder.layer.1.", "attention.output.dense", "output.dense"),
        ("modernbert", "layers.1.", "attn.Wo", "mlp.Wo"),
    ],
)
def test_bottlenecks_stand_at_the_ends_of_a_blocks_parts(base_of, architecture, block, attention, feedforward):
    model = base_of(architecture).model
    for placement, expected in (("houlsby", [attention, feedforward]), ("pfeiffer", [feedforward])):
        found = adapted_layers(model, placement)
        assert [path.removeprefix(block) for path in found if path.startswith(block)] == expected
        assert len(found) == 2 * len(expected)
    assert adapted_layers(model, "parallel") == adapted_layers(model, "pfeiffer")


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_member_answers_as_the_base_with_its_bottlenecks(
    base_of, moved, hidden, stacked_hidden, architecture, placement, members
):
    base, make = base_of(architecture), stack_of(placement, members)
    tensors = moved(make(base.model))
    together = stacked_hidden(base, make, tensors)
    for p in range(members):
        expected = hidden(base, with_bottlenecks(base, tensors, p, placement))
        assert float((together[p] - expected).abs().max()) < 1e-5
        assert float((together[p] - hidden(base, base.model)).abs().max()) > 1e-2, "the bottlenecks must show"


def test_the_activation_is_the_one_asked_for(base_of, moved, hidden, stacked_hidden):
    base, make = base_of("bert"), stack_of("pfeiffer", activation="gelu")
    tensors = moved(make(base.model))
    expected = hidden(base, with_bottlenecks(base, tensors, 0, "pfeiffer", F.gelu))
    assert float((stacked_hidden(base, make, tensors)[0] - expected).abs().max()) < 1e-5
    assert float((stacked_hidden(base, stack_of("pfeiffer"), tensors)[0] - expected).abs().max()) > 1e-4


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_start_is_the_base(base_of, hidden, stacked_hidden, architecture, placement):
    base, make = base_of(architecture), stack_of(placement)
    started = stacked_hidden(base, make, make(base.model).start())[0]
    assert torch.equal(started, hidden(base, base.model))


def test_a_start_is_small_random_and_the_members_own(base_of):
    model = base_of("bert").model
    name = "encoder.layer.0.output.dense.down"
    downs = stack_of("houlsby", 3)(model).start()[name]
    assert 0.01 < float(downs.std()) < 0.03
    assert not torch.equal(downs[0], downs[1])
    alone = BottleneckStack(
        model, [Member(seed=2)], size=5, targets=adapted_layers(model, "pfeiffer"), placement="pfeiffer"
    )
    assert torch.equal(alone.start()[name][0], downs[2])


@pytest.mark.parametrize("placement", ["pfeiffer", "parallel"])
def test_gradients_equal_those_of_plain_autograd(placement):
    block = torch.nn.ModuleDict(
        {
            "intermediate": torch.nn.ModuleDict({"dense": torch.nn.Linear(5, 7)}),
            "output": torch.nn.ModuleDict({"dense": torch.nn.Linear(7, 5)}),
        }
    )
    tree = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([block])}).double().requires_grad_(False)
    first, second = block["intermediate"]["dense"], block["output"]["dense"]
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    stack = stack_of(placement, 2, activation="gelu")(tree)
    start = stack.start(torch.float64)
    tensors = {name: torch.randn_like(tensor).requires_grad_() for name, tensor in start.items()}
    stack.bind(tensors)
    stack.now = Pass(active=(0, 1), sequences=3, positions=1)
    stack.attach(tree)
    down, down_bias, up, up_bias = tensors.values()
    plain = []
    for p in range(2):
        own = x[3 * p : 3 * p + 3]
        y = second(torch.tanh(first(own)))
        read = own if placement == "parallel" else y
        plain.append(y + SCALES[p] * (F.gelu(read @ down[p] + down_bias[p]) @ up[p] + up_bias[p]))
    target = torch.randn(6, 5, dtype=torch.float64)
    leaves = [x, *tensors.values()]
    expected = torch.autograd.grad((torch.cat(plain) * target).sum(), leaves)
    ours = block["output"]["dense"](torch.tanh(block["intermediate"]["dense"](x)))
    for mine, theirs in zip(torch.autograd.grad((ours * target).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_member_of_three_ends_as_the_same_candidate_alone(ends_as_alone, placement):
    def make(tree, members):
        return BottleneckStack(
            tree, members, size=4, targets=adapted_layers(tree, placement), placement=placement, activation="gelu"
        )

    ends_as_alone(make)


def test_dropout_leaves_out_parts_of_the_bottleneck_in_training_alone(base_of, moved, stacked_hidden):
    base, make = base_of("bert"), stack_of("pfeiffer", dropout=0.5)
    tensors = moved(make(base.model))
    plain = stacked_hidden(base, make, tensors)
    step = {"step": 1, "sequence_S": torch.arange(3)}
    dropped = stacked_hidden(base, make, tensors, **step)
    assert float((plain - dropped).abs().max()) > 1e-2
    assert torch.equal(dropped, stacked_hidden(base, make, tensors, **step))
    kept = {name: torch.zeros_like(t) if name.endswith(".up") else t for name, t in tensors.items()}
    assert torch.equal(stacked_hidden(base, make, kept), stacked_hidden(base, make, kept, **step))


def test_weight_decay_pulls_at_projections_not_at_biases(base_of):
    stack = stack_of("pfeiffer")(base_of("bert").model)
    assert {name.rpartition(".")[2] for name in stack.shapes() if stack.decays(name)} == {"down", "up"}


@pytest.fixture(params=PLACEMENTS)
def saved(request, base_of, moved, tmp_path):
    tensors = one_of(moved(stack_of(request.param)(base_of("bert").model)))
    form = BottleneckForm(size=5, placement=request.param, activation="gelu", scale=2.5, dropout=0.1)
    save_adapter(tensors, form, tmp_path)
    return tensors, form, tmp_path


def test_saved_and_loaded_is_the_same(base_of, stacked_hidden, saved):
    tensors, form, folder = saved
    again, loaded = load_adapter(folder)
    assert loaded == form
    assert again.keys() == tensors.keys()
    answers = [
        stacked_hidden(
            base_of("bert"),
            lambda tree, own=own, form=form: form.stack(tree, own),
            {n: t[None] for n, t in own.items()},
        )
        for own, form in ((tensors, form), (again, loaded))
    ]
    assert torch.equal(*answers)
    layer = "base_model.model.encoder.layer.0.output.dense.adapter_down"
    assert load_file(folder / "adapter_model.safetensors")[f"{layer}.weight"].shape == (5, 32)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"placement": "lora"}, "says `placement` 'lora'; it must be one of houlsby, pfeiffer, parallel"),
        ({"activation": None}, "says `activation` None; it must be one of relu, gelu"),
        ({"size": 0}, "says `size` 0 and `scale` 2.5; both must be numbers above 0"),
        ({"scale": "4"}, "says `size` 5 and `scale` '4'"),
        ({"dropout": "much"}, "says `dropout` 'much'; it must be a number"),
        ({"size": 6}, "should have both projections and biases of a bottleneck of size 6, found down 5"),
        ({"target_modules": ["output.dense"]}, "should hold bottlenecks at its `target_modules`"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, values, sentence):
    _, _, folder = saved
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    with pytest.raises(ModelError, match=sentence):
        load_adapter(folder)


def test_damaged_weights_are_refused(saved):
    _, _, folder = saved
    weights = folder / "adapter_model.safetensors"
    stored = load_file(weights)
    key = "base_model.model.encoder.layer.1.output.dense.adapter_up.bias"
    save_file({name: tensor for name, tensor in stored.items() if name != key}, weights)
    with pytest.raises(ModelError, match=r"layer 'encoder.layer.1.output.dense' should have both .* up_bias None"):
        load_adapter(folder)
    save_file(stored | {"base_model.model.classifier.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(ModelError, match=r"holds 'base_model.model.classifier.weight', which is no part of a bottle"):
        load_adapter(folder)


def test_a_base_with_other_layers_is_refused(base_of, saved):
    tensors, form, _ = saved
    with pytest.raises(ModelError, match=r"adapter: '.*' is not a linear layer of DistilBertModel"):
        form.stack(base_of("distilbert").model, tensors)
    with pytest.raises(ModelError, match=r"adapter: no linear layer of this base matches targets"):
        adapted_layers(torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Sequential()])}), "houlsby")


def test_beside_needs_the_end_of_a_feedforward_part(base_of):
    query = "encoder.layer.0.attention.self.query"
    with pytest.raises(ModelError, match=f"adapter: '{query}' does not end a feed-forward part of BertModel"):
        BottleneckStack(base_of("bert").model, [Member()], size=4, targets=[query], placement="parallel")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size": 0}, "adapter: `size` must be 1 or more, got 0. For no adapter use 'linear_probe'."),
        ({"scale": 0.0}, "adapter: `scale` must be a finite number above 0, got 0.0."),
        ({"dropout": 1.0}, "adapter: `dropout` must lie between 0 and 1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as caught:
        AdapterConfig(**values)
    assert sentence in str(caught.value)


def test_the_usual_scale_is_that_of_the_placements_paper():
    assert [AdapterConfig(placement=placement).form.scale for placement in PLACEMENTS] == [1.0, 1.0, 4.0]
    assert AdapterConfig(placement="parallel", scale=0.5).member(3) == Member(seed=3, scale=0.5)


def test_a_base_without_known_blocks_is_skipped_with_a_sentence(tiny):
    base = copy.copy(tiny)
    base.model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Sequential()])})
    assert Adapter().refuses(tiny) is None
    assert "adapter: no linear layer of this base matches targets" in Adapter().refuses(base)


@pytest.mark.parametrize("name", list(Adapter.parameters))
def test_whatever_the_search_may_ask_for_makes_a_config(name):
    part = Adapter.parameters[name]
    for value in part.values if isinstance(part, Choice) else (part.low, part.high):
        assert getattr(AdapterConfig(**{name: value}), name) == value
