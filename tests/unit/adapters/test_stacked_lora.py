"""Stacked LoRA: the same numbers as PEFT, members that do not see each other, a base that stays as it was."""

import numpy as np
import pytest
import torch

from tunewise.adapters.lora import LoraStack, target_layers
from tunewise.adapters.masks import dropout_masks, token_hash
from tunewise.adapters.stack import Member, NotStackable, Pass
from tunewise.errors import ModelError
from tunewise.models.encoder import collate
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tree import shared_tree

TEXTS = [("the card was stolen",), ("how do I reset the password of my account",), ("never dull",)]


def batch_of(encoder, texts=TEXTS):
    tokens = encoder.encode(texts, "keep_start")
    return collate(tokens, range(len(texts)), pad_id=encoder.pad_id, device=encoder.device)


def random_stack(encoder, tree, members, rank=4, **kinds):
    stack = LoraStack(tree, members, rank=rank, targets=target_layers(encoder.model), **kinds)
    tensors = stack.start()
    rng = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) * 0.1)
    stack.bind(tensors)
    return stack


def test_every_linear_layer_of_the_blocks_is_a_target(tiny):
    found = target_layers(tiny.model)
    assert len(found) == 12
    assert all(".layer." in path for path in found)
    assert len(target_layers(tiny.model, "attention")) == 8
    assert len(target_layers(tiny.model, "feedforward")) == 4
    assert len(target_layers(tiny.model, ("query", "value"))) == 4


def test_targets_that_match_nothing_are_answered_with_what_there_is(tiny):
    with pytest.raises(ModelError, match=r"no linear layer of this base matches targets .*Its layers end in: dense"):
        target_layers(tiny.model, ("q_proj",))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_one_member_equals_peft(tiny):
    import peft
    import transformers

    path = tiny.info.path
    tree = shared_tree(tiny.model)
    stack = random_stack(tiny, tree, [Member(scale=2.0)])
    stack.now = Pass(active=(0,), sequences=0, positions=0)
    stack.attach(tree)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(stack.layers))
    theirs = peft.get_peft_model(transformers.AutoModel.from_pretrained(path, add_pooling_layer=False), config).eval()
    weights = dict(theirs.named_parameters())
    for name, tensor in stack.tensors.items():
        key = f"base_model.model.{name[:-2]}.lora_{name[-1]}.default.weight"
        weights[key].data = tensor[0].t().contiguous()
    batch = batch_of(tiny)
    kinds = {"input_ids": batch.input_ids_ST, "attention_mask": batch.attention_mask_ST}
    ours = tree(**kinds).last_hidden_state.detach()
    expected = theirs(**kinds).last_hidden_state.detach()
    assert float((ours - expected).abs().max()) < 1e-5
    assert float((tiny.model(**kinds).last_hidden_state - expected).abs().max()) > 1e-2, "the update must show"


def test_gradients_equal_those_of_plain_autograd():
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    tree = torch.nn.Sequential()
    tree.add_module("block", torch.nn.ModuleList([torch.nn.Linear(5, 7, dtype=torch.float64)]))
    layer = tree.block[0].requires_grad_(False)
    stack = LoraStack(tree, [Member(scale=0.5), Member(scale=3.0)], rank=2, targets=("block.0",))
    tensors = {name: torch.randn_like(value).requires_grad_() for name, value in stack.start(torch.float64).items()}
    stack.bind(tensors)
    stack.now = Pass(active=(0, 1), sequences=3, positions=1)
    stack.attach(tree)
    a, b = tensors["block.0.A"], tensors["block.0.B"]
    plain = torch.cat(
        [layer(x[3 * p : 3 * p + 3]) + s * x[3 * p : 3 * p + 3] @ a[p] @ b[p] for p, s in ((0, 0.5), (1, 3.0))]
    )
    target = torch.randn(6, 7, dtype=torch.float64)
    expected = torch.autograd.grad((plain * target).sum(), [x, a, b])
    ours = torch.autograd.grad((tree.block[0](x) * target).sum(), [x, a, b])
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, a, b: _with(stack, tree, x, a, b), (x, a, b))


def _with(stack, tree, x, a, b):
    stack.bind({"block.0.A": a, "block.0.B": b})
    return tree.block[0](x)


def test_start_of_a_member_does_not_depend_on_the_others(tiny):
    form = {"rank": 4, "targets": target_layers(tiny.model)}
    alone = LoraStack(tiny.model, [Member(seed=7)], **form).start()
    among = LoraStack(tiny.model, [Member(seed=s) for s in (1, 7, 2)], **form).start()
    for name, tensor in alone.items():
        assert torch.equal(tensor[0], among[name][1])
    a = alone["encoder.layer.0.attention.self.query.A"]
    assert float(a.abs().max()) <= 32**-0.5
    assert not torch.equal(a[0], among["encoder.layer.0.attention.self.query.A"][0])


def test_attach_and_detach_leave_the_very_same_modules(tiny):
    before = {name: id(module) for name, module in tiny.model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    tree = shared_tree(tiny.model)
    stack = random_stack(tiny, tree, [Member(scale=1.0)])
    layers = {path: tree.get_submodule(path) for path in stack.layers}
    stack.attach(tree)
    stack.detach(tree)
    assert all(tree.get_submodule(path) is layer for path, layer in layers.items())
    assert {name: id(module) for name, module in tiny.model.named_modules()} == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny.model.state_dict().items())


def test_a_tree_shares_memory_with_its_model(tiny):
    tree = shared_tree(tiny.model)
    ours, theirs = dict(tree.named_parameters()), dict(tiny.model.named_parameters())
    assert all(ours[name] is theirs[name] for name in theirs)
    half = shared_tree(tiny.model, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in tiny.model.parameters()} == {torch.float32}


def test_a_base_that_mixes_members_is_not_stacked(tmp_path):
    encoder = load_base(str(tiny_encoder(tmp_path, architecture="deberta-v2")), device="cpu", dtype="float32")
    tree = shared_tree(encoder.model)
    stack = random_stack(encoder, tree, [Member(scale=1.0)] * 2)
    stack.attach(tree)
    batch = batch_of(encoder)
    stack.now = Pass(active=(0, 1), sequences=3, positions=batch.input_ids_ST.shape[1])
    twice = {"input_ids": batch.input_ids_ST.repeat(2, 1), "attention_mask": batch.attention_mask_ST.repeat(2, 1)}
    with pytest.raises(NotStackable, match="this base trains one member at a time"):
        tree(**twice)


def test_rows_that_belong_to_no_member_are_noticed_even_where_they_divide_evenly():
    tree = torch.nn.Sequential()
    tree.add_module("block", torch.nn.ModuleList([torch.nn.Linear(5, 7)]))
    stack = LoraStack(tree, [Member()] * 2, rank=2, targets=("block.0",))
    stack.bind(stack.start())
    stack.attach(tree)
    stack.now = Pass(active=(0, 1), sequences=3, positions=7)
    assert tree.block[0](torch.zeros(6, 7, 5)).shape == (6, 7, 7)
    assert tree.block[0](torch.zeros(42, 5)).shape == (42, 7)
    with pytest.raises(NotStackable, match="called with 4 rows where 2 members with 3 sequences each were expected"):
        tree.block[0](torch.zeros(4, 7, 5))


def test_a_rank_larger_than_a_layer_is_refused(tiny):
    with pytest.raises(ModelError, match=r"rank 33 is larger than layer 'encoder.layer.0.attention.self.query'"):
        LoraStack(tiny.model, [Member()], rank=33, targets=target_layers(tiny.model))


def test_tensors_of_another_base_are_refused(tiny):
    stack = LoraStack(tiny.model, [Member()], rank=4, targets=target_layers(tiny.model))
    tensors = stack.start()
    tensors["encoder.layer.0.output.dense.A"] = torch.zeros(1, 5, 4)
    with pytest.raises(ModelError, match=r"'encoder.layer.0.output.dense.A' should have shape \(1, \d+, 4\), found"):
        stack.bind(tensors)


def mask(sequences, positions, *, seeds=(0,), rates=(0.3,), step=1, site="a", features=64):
    hashes = token_hash(torch.tensor(sequences), positions)
    rate_P = torch.tensor(rates)
    sites = [site]
    return dropout_masks(hashes, features, rate_P=rate_P, seeds=seeds, step=step, sites=sites, dtype=torch.float32)[0]


@pytest.mark.parametrize("features", [63, 64])
def test_masks_drop_next_to_nothing_or_next_to_all(features):
    none, nearly_all = mask(range(8), 16, seeds=(0, 1), rates=(0.0, 0.999995), features=features)
    assert none.shape == (128, features)
    assert bool((none == 1).all())
    assert float((nearly_all > 0).float().mean()) < 0.01


def test_the_two_halves_of_a_draw_have_nothing_to_do_with_each_other():
    kept = (mask(range(64), 16, rates=(0.5,))[0] > 0).float()
    left, right = kept[:, 0::2], kept[:, 1::2]
    both = float((left * right).mean())
    # 32,768 pairs: standard error 0.0024
    assert abs(both - 0.25) < 0.012


def test_masks_drop_the_asked_share_and_keep_the_mean():
    one = mask(range(64), 16)
    assert one.shape == (1, 1024, 64)
    # 65,536 draws of p = 0.3 have a standard error of 0.0018
    assert abs(float((one == 0).float().mean()) - 0.3) < 0.01
    assert abs(float(one.mean()) - 1.0) < 0.015
    shares = (one[0] == 0).float()
    assert float(shares.mean(0).std()) < 0.03
    assert float(shares.mean(1).std()) < 0.08


def test_masks_do_not_depend_on_company():
    many = mask(range(10), 12, seeds=(5, 6), rates=(0.3, 0.5)).view(2, 10, 12, 64)
    alone = mask([7], 9, seeds=(6,), rates=(0.5,)).view(9, 64)
    assert torch.equal(many[1, 7, :9], alone)


@pytest.mark.parametrize("change", [{"seeds": (1,)}, {"step": 2}, {"site": "b"}, {"sequences": [4]}])
def test_masks_are_unrelated_where_anything_changes(change):
    sequences = change.pop("sequences", [3])
    first, second = mask([3], 64) == 0, mask(sequences, 64, **change) == 0
    # independent masks agree in 0.3^2 + 0.7^2 = 0.58 of 4,096 places, standard error 0.008
    assert abs(float((first == second).float().mean()) - 0.58) < 0.04


def test_no_dropout_without_a_step(tiny):
    tree = shared_tree(tiny.model)
    stack = random_stack(tiny, tree, [Member(scale=1.0, dropout=0.5)])
    stack.attach(tree)
    batch = batch_of(tiny)
    sequences, positions = batch.input_ids_ST.shape
    inputs = {"input_ids": batch.input_ids_ST, "attention_mask": batch.attention_mask_ST}

    def hidden(step):
        stack.now = Pass(
            active=(0,), sequences=sequences, positions=positions, step=step, sequence_S=torch.arange(sequences)
        )
        return tree(**inputs).last_hidden_state.detach().numpy()

    assert np.array_equal(hidden(None), hidden(None))
    assert np.array_equal(hidden(1), hidden(1))
    assert not np.array_equal(hidden(1), hidden(None))
    assert not np.array_equal(hidden(1), hidden(2))


def test_masks_of_several_sites_are_the_same_drawn_together():
    hashes, rate_P = token_hash(torch.tensor([3, 1]), 5), torch.tensor([0.3, 0.0, 0.5])
    options = {"rate_P": rate_P, "seeds": [1, 2, 1], "step": 4, "dtype": torch.float32}
    together = dropout_masks(hashes, 7, sites=["a", "b", "c"], **options)
    alone = [dropout_masks(hashes, 7, sites=[site], **options)[0] for site in "abc"]
    assert torch.equal(together, torch.stack(alone))
