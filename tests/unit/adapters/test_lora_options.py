"""Options of LoRA: DoRA, rsLoRA, the PiSSA start and LoRA+, each against PEFT or plain autograd."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tunewise.adapters.files import load_adapter, save_adapter
from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
from tunewise.adapters.stack import Member, Pass
from tunewise.config import DataConfig, Task
from tunewise.methods.base import Context, Fold
from tunewise.methods.lora import Lora, LoraConfig, since_start
from tunewise.models.encoder import Encoder
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tree import shared_tree
from tunewise.training.adapted import StackedPopulation
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart, split_head
from tunewise.training.rows import Rows
from tunewise.types import Example

# PEFT asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

IDS = torch.tensor([[2, 8, 9, 10, 3], [2, 11, 12, 13, 3]])
WORDS = ["card", "stolen", "payment", "reset", "password", "account", "film", "charm", "dull", "order", "refund"]


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def encoder(request, tmp_path_factory, one_thread):
    folder = tiny_encoder(tmp_path_factory.mktemp("bases"), architecture=request.param)
    return load_base(str(folder), device="cpu", dtype="float32")


class DoubleEncoder(Encoder):
    """Pools in float64, so that rounding does not hide a difference."""

    def pool_sequences(self, hidden_STH, batch):
        weight_ST = batch.attention_mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def double(tiny):
    base = copy.copy(tiny)
    base.__class__ = DoubleEncoder
    base.model = shared_tree(tiny.model, torch.float64)
    return base


def auto_model(encoder):
    import transformers

    return transformers.AutoModel.from_pretrained(encoder.info.path)


def peft_model(encoder, **options):
    import peft

    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=list(target_layers(encoder.model)), task_type="FEATURE_EXTRACTION", **options
    )
    return peft.get_peft_model(auto_model(encoder), config).eval()


def hidden(model):
    with torch.no_grad():
        return model(input_ids=IDS).last_hidden_state


def our_hidden(encoder, tensors, form):
    tree = shared_tree(encoder.model)
    stack = form.stack(tree, tensors)
    stack.bind({name: tensor[None] for name, tensor in tensors.items()})
    stack.now = Pass(active=(0,), sequences=0, positions=0)
    return hidden(stack.attach(tree))


def random_tensors(encoder, *, dora):
    stack = LoraStack(encoder.model, [Member()], rank=4, targets=target_layers(encoder.model), dora=dora)
    rng = torch.Generator().manual_seed(1)
    tensors = {name: tensor[0] for name, tensor in stack.start().items()}
    return {
        name: tensor * (1 + 0.2 * torch.rand(tensor.shape, generator=rng))
        if name.endswith(".m")
        else torch.randn(tensor.shape, generator=rng) * 0.1
        for name, tensor in tensors.items()
    }


def largest(difference):
    return float(difference.abs().max())


# --- PEFT answers the same


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_peft_loads_what_is_saved_here(encoder, tmp_path, dora, rslora):
    import peft

    tensors = random_tensors(encoder, dora=dora)
    form = LoraForm(rank=4, alpha=6.0, rslora=rslora, dora=dora)
    save_adapter(tensors, form, tmp_path)
    model = auto_model(encoder)
    base = hidden(model)
    theirs = hidden(peft.PeftModel.from_pretrained(model, tmp_path).eval())
    assert largest(our_hidden(encoder, tensors, form) - theirs) < 1e-5
    assert largest(base - theirs) > 1e-2, "the update must show"


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves_loads_here(encoder, tmp_path, dora, rslora):
    theirs = peft_model(encoder, use_dora=dora, use_rslora=rslora)
    rng = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.rand(parameter.shape, generator=rng)
        elif "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1
    theirs.save_pretrained(tmp_path)
    tensors, form = load_adapter(tmp_path)
    assert (form.dora, form.rslora) == (dora, rslora)
    assert form.scale == (8 / 2 if rslora else 8 / 4)
    assert largest(our_hidden(encoder, tensors, form) - hidden(theirs)) < 1e-5


def test_the_lengths_have_the_name_that_peft_gives_them(encoder, tmp_path):
    peft_model(encoder, use_dora=True).save_pretrained(tmp_path / "theirs")
    save_adapter(random_tensors(encoder, dora=True), LoraForm(rank=4, alpha=8.0, dora=True), tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("theirs", "ours"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert any(name.endswith(".lora_magnitude_vector") for name in ours)


def test_dora_starts_as_the_base_answers(encoder):
    stack = LoraStack(encoder.model, [Member()], rank=4, targets=target_layers(encoder.model), dora=True)
    start = {name: tensor[0] for name, tensor in stack.start().items()}
    ours = our_hidden(encoder, start, LoraForm(rank=4, alpha=8.0, dora=True))
    assert largest(ours - hidden(encoder.model)) < 1e-5


# --- gradients of DoRA


def dora_layer():
    """Two members on one layer with a bias, three rows each, everything random, in float64."""
    torch.manual_seed(0)
    tree = torch.nn.Sequential()
    tree.add_module("block", torch.nn.ModuleList([torch.nn.Linear(5, 7, dtype=torch.float64)]))
    layer = tree.block[0].requires_grad_(False)
    members = [Member(scale=0.5), Member(scale=3.0)]
    stack = LoraStack(tree, members, rank=2, targets=("block.0",), dora=True)
    tensors = {name: torch.randn_like(value).requires_grad_() for name, value in stack.start(torch.float64).items()}
    stack.bind(tensors)
    stack.now = Pass(active=(0, 1), sequences=3, positions=1)
    stack.attach(tree)
    return layer, tree, tensors


def plain_dora(layer, x, tensors):
    """Row lengths m times W + s (A B)^T over its row norms, which count as constants; plus the bias."""
    outputs = []
    for p, scale in ((0, 0.5), (1, 3.0)):
        a, b, m = (tensors[f"block.0.{part}"][p] for part in "ABm")
        whole_OI = layer.weight + scale * (a @ b).t()
        direction_OI = whole_OI / whole_OI.norm(dim=1, keepdim=True).detach()
        outputs.append(torch.nn.functional.linear(x[3 * p : 3 * p + 3], m[:, None] * direction_OI, layer.bias))
    return torch.cat(outputs)


def test_gradients_of_dora_equal_those_of_plain_autograd():
    layer, tree, tensors = dora_layer()
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, 7, dtype=torch.float64)
    plain, ours = plain_dora(layer, x, tensors), tree.block[0](x)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    leaves = [x, *tensors.values()]
    expected = torch.autograd.grad((plain.tanh() * target).sum(), leaves)
    found = torch.autograd.grad((ours.tanh() * target).sum(), leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
        assert largest(theirs) > 1e-2


# --- PiSSA


def rows_of(base, count, seed):
    rng = np.random.default_rng(seed)
    texts = [(" ".join(rng.choice(WORDS, size=rng.integers(1, 12))),) for _ in range(count)]
    return Rows(base.encode(texts, "keep_start"), np.array([len(text[0]) % 3 for text in texts]))


PLAN = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)
SETTINGS = [
    Settings(learning_rate=10 ** (-2 - p / 4), weight_decay=0.1 * p, warmup_share=0.1 * p, label_smoothing=0.05 * p)
    for p in range(3)
]
MEMBERS = [Member(scale=0.5 + p, seed=p, dropout=0.1 * p) for p in range(3)]


def loop_of(base, members=(0,), plan=PLAN, settings=SETTINGS, stacked=MEMBERS, **kinds):
    train, race = rows_of(base, 22, 0), rows_of(base, 13, 1)
    targets = target_layers(base.model)
    population = StackedPopulation(
        base,
        lambda tree: LoraStack(tree, [stacked[p] for p in members], rank=2, targets=targets, **kinds),
        HeadStart(labels=3, weight_LH=np.random.default_rng(0).normal(size=(3, 32)), bias_L=np.zeros(3)),
    )
    return Loop(population, Labels(train, race, 3), plan, [settings[p] for p in members])


def trained_hidden(loop):
    loop.population.stack.now = Pass(active=(0,), sequences=0, positions=0)
    return hidden(loop.population.encoder.model)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_starts_at_the_base_moves_and_is_exported_as_an_update_of_the_base(encoder, tmp_path, dora, rslora):
    import peft

    form = LoraForm(rank=2, alpha=3.0, rslora=rslora, dora=dora)
    loop = loop_of(encoder, stacked=[Member(scale=form.scale)], start="pissa", dora=dora)
    base = hidden(encoder.model)
    assert largest(trained_hidden(loop) - base) < 1e-5
    layer = next(m for m in loop.population.encoder.model.modules() if type(m).__name__ == "StackedLoraLinear")
    assert largest(layer.weight - layer.frozen.weight) > 1e-2, "the largest directions must be taken out"
    loop.advance(loop.horizon)
    moved = trained_hidden(loop)
    assert largest(moved - base) > 1e-2

    own, _, _ = split_head(loop.population.export(loop.population.flat.values_PN[0]))
    whole, double_form = since_start(own, form, encoder.model)
    assert double_form.rank == 4
    assert double_form.scale == pytest.approx(form.scale)
    assert largest(our_hidden(encoder, whole, double_form) - moved) < 1e-5
    save_adapter(whole, double_form, tmp_path)
    theirs = peft.PeftModel.from_pretrained(auto_model(encoder), tmp_path).eval()
    assert largest(hidden(theirs) - moved) < 1e-5


def test_pissa_takes_the_largest_singular_values():
    """Of a diagonal weight these are its largest entries."""
    tree = torch.nn.Sequential()
    tree.add_module("block", torch.nn.ModuleList([torch.nn.Linear(4, 4)]))
    tree.block[0].weight.data = torch.diag(torch.tensor([1.0, 5.0, 2.0, 4.0]))
    stack = LoraStack(tree, [Member(scale=2.0)], rank=2, targets=("block.0",), start="pissa")
    start = stack.start()
    product = 2.0 * start["block.0.A"][0] @ start["block.0.B"][0]
    torch.testing.assert_close(product, torch.diag(torch.tensor([0.0, 5.0, 0.0, 4.0])), atol=1e-5, rtol=0)
    stack.attach(tree)
    torch.testing.assert_close(tree.block[0].weight, torch.diag(torch.tensor([1.0, 0.0, 2.0, 0.0])), atol=1e-5, rtol=0)


def test_pissa_trained_in_bfloat16_takes_off_the_start_it_was_given(tiny):
    """Where all singular values are equal, rounding decides which directions are the largest."""
    even = copy.copy(tiny)
    even.model = copy.deepcopy(tiny.model)
    torch.manual_seed(0)
    for path in target_layers(even.model):
        torch.nn.init.orthogonal_(even.model.get_submodule(path).weight)
    rows = tuple(Example(id=word, fields={"text": word}, target="ab"[i % 2]) for i, word in enumerate(WORDS))
    context = Context(
        task=Task(data=DataConfig(train="x"), dtype="bfloat16"),
        labels=("a", "b"),
        base=even,
        folds=(Fold(train=rows, race=rows),),
        features=lambda rows: even.features([row.texts for row in rows], "keep_start"),
        work=10**9,
        seed=11,
    )
    bracket = Lora().open(context, [LoraConfig(rank=8, start="pissa", epochs=2.0, learning_rate=1e-4)])
    bracket.advance(bracket.horizon)
    for answer, seen in zip(bracket.predictor(0).predict(rows), bracket.predictions()[0], strict=True):
        assert answer.scores == pytest.approx(seen.scores, abs=0.03)


# --- LoRA+


def test_b_learns_faster_by_the_factor(double):
    """AdamW's first step is the rate, whatever the gradient: B's is 16 times A's, m's and the head's are not."""
    plan = Plan(epochs=2, batch_size=5, seed=3, schedule="constant")
    loop = loop_of(double, plan=plan, settings=[Settings(learning_rate=1e-3, warmup_share=0.0)], b_rate=16.0, dora=True)
    flat = loop.population.flat
    rng = torch.Generator().manual_seed(0)
    for name, view in flat.views(flat.values_PN).items():
        if name.endswith(".B"):  # where B is zero, A has no gradient
            view.copy_(torch.randn(view.shape, generator=rng) * 0.1)
    before = {name: view.clone() for name, view in flat.views(flat.values_PN).items()}
    loop.advance(1)
    moves = {name: largest(view - before[name]) for name, view in flat.views(flat.values_PN).items()}
    for name, move in moves.items():
        assert move == pytest.approx(16e-3 if name.endswith(".B") else 1e-3, rel=1e-2), name


# --- members


@pytest.mark.parametrize("kinds", [{"dora": True}, {"start": "pissa"}, {"dora": True, "start": "pissa", "b_rate": 4.0}])
def test_a_member_of_three_ends_as_the_same_candidate_alone(double, kinds):
    together = loop_of(double, (0, 1, 2), **kinds)
    start_PN = together.population.flat.values_PN.clone()
    together.advance(together.horizon)
    for p in range(3):
        alone = loop_of(double, (p,), **kinds)
        alone.advance(alone.horizon)
        assert largest(alone.population.flat.values_PN[0] - together.population.flat.values_PN[p]) < 1e-10
        np.testing.assert_allclose(alone.curve(0).dev_losses, together.curve(p).dev_losses, atol=1e-10)
        assert largest(start_PN[p] - together.population.flat.values_PN[p]) > 1e-3, "it must have learnt"
