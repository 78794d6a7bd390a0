"""Options of `full`: slower lower blocks, blocks computed twice, only the last blocks trained."""

import dataclasses

import numpy as np
import pytest
import torch

from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError
from tunewise.methods.base import Context, Fold
from tunewise.methods.full import SEARCHED, Full, FullConfig
from tunewise.models.load import load_base
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder
from tunewise.models.tree import shared_tree
from tunewise.training.frozen import LowerBlocks, blocks_of
from tunewise.training.labels import Labels, batch_of
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.training.whole import FullPopulation
from tunewise.types import Example

TEXTS = [("the card was stolen",), ("how do I reset the password of my account",), ("never dull",), ("dull",)]
PLAN = Plan(epochs=3, batch_size=4, seed=3)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request, tmp_path_factory):
    """With dropout, so that it shows where it is on."""
    folder = tiny_encoder(tmp_path_factory.mktemp("bases"), architecture=request.param, layers=3)
    return load_base(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tiny_encoder(tmp_path_factory.mktemp("bases"), layers=3)
    return load_base(str(folder), device="cpu", dtype="float32")


def loop_of(base, learning_rate=1e-3, weight_decay=0.0, **options):
    rows = Rows(base.encode(TEXTS, "keep_start"), np.array([0, 1, 2, 0]))
    head = HeadStart(labels=3, weight_LH=np.random.default_rng(0).normal(size=(3, 32)), bias_L=np.zeros(3))
    population = FullPopulation(
        base, head, used_tokens=np.unique(np.concatenate(rows.tokens.ids)), dtype=base.dtype, seed=5, **options
    )
    settings = Settings(learning_rate=learning_rate, weight_decay=weight_decay, warmup_share=0.0)
    return Loop(population, Labels(rows, rows, 3), PLAN, [settings])


def gradients(loop):
    (loss,) = loop._gradients(np.arange(4), [0])
    flat = loop.population.flat
    return loss, {name: view[0].clone() for name, view in flat.views(flat.grads_PN).items()}


def first_moves(base, **options):
    """How far each tensor's entries go in one AdamW step: the rate, as long as the gradient is not tiny."""
    loop = loop_of(base, **options)
    before = {name: view.clone() for name, view in loop.population.flat.views(loop.population.flat.values_PN).items()}
    loop.advance(1)
    after = loop.population.flat.views(loop.population.flat.values_PN)
    return {name: float((after[name] - before[name]).abs().max()) for name in before}


def test_a_block_learns_at_a_share_of_the_rate_of_the_block_above(base):
    moves = first_moves(base, learning_rate=1e-3, layer_decay=0.5)
    path, _ = blocks_of(base.model)
    expected = {f"{path}.2.": 1e-3, f"{path}.1.": 5e-4, f"{path}.0.": 2.5e-4, "head.": 1e-3}
    for prefix, rate in expected.items():
        of_layer = [move for name, move in moves.items() if name.startswith(prefix)]
        assert max(of_layer) == pytest.approx(rate, rel=1e-2)
    embeddings = [move for name, move in moves.items() if "embed" in name]
    assert max(embeddings) == pytest.approx(1.25e-4, rel=1e-2)
    last_norm = [move for name, move in moves.items() if name.startswith("final_norm")]
    assert last_norm == pytest.approx([1e-3] * len(last_norm), rel=1e-2)


def test_without_layer_decay_everything_learns_at_one_rate(bert):
    flat = loop_of(bert).population.flat
    assert {group.rate for _, _, group in flat.segments} == {1.0}


def test_weights_decay_with_layer_decay_as_without(bert):
    """The decoupled decay of AdamW shrinks matrices by rate times decay; embeddings of tokens and biases stay."""
    plain, slow = (loop_of(bert, layer_decay=share).population for share in (1.0, 0.5))
    for name in (slot.name for slot in plain.flat.slots):
        tensor = plain.flat.views(plain.flat.values_PN)[name]
        assert plain._group(name, tensor).decays == slow._group(name, tensor).decays


def test_gradients_with_checkpointing_equal_those_without(base):
    loss, plain = gradients(loop_of(base))
    again, checkpointed = gradients(loop_of(base, checkpointing=True))
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in plain.values()) > 1e-2


@pytest.mark.parametrize("top_layers", [None, 2])
def test_dropout_of_the_base_is_the_same_in_both_computations(base, top_layers):
    """Which it would not be if the second came with other masks, or with none."""
    lower = None if top_layers is None else LowerBlocks(base, top_layers)
    loss, plain = gradients(loop_of(base, base_dropout=True, lower=lower))
    again, checkpointed = gradients(loop_of(base, base_dropout=True, checkpointing=True, lower=lower))
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-6)


def test_checkpointing_leaves_the_dropout_of_the_base_off_unless_asked(bert):
    """Bert drops a tenth."""
    calm = gradients(loop_of(bert, checkpointing=True))[0]
    assert calm == pytest.approx(gradients(loop_of(bert))[0], abs=1e-6)
    assert abs(calm - gradients(loop_of(bert, checkpointing=True, base_dropout=True))[0]) > 1e-3


def test_checkpointing_keeps_less_for_the_backward_pass(base):
    kept = {}
    for checkpointing in (False, True):
        loop, sizes = loop_of(base, checkpointing=checkpointing), []
        batch = batch_of(loop.population, loop.objective.train, [0, 1, 2, 3])

        def note(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        loop.population.logits(batch, [0], None)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loop.population.logits(batch, [0], None)
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.25 * kept[False]


def test_checkpointing_is_counted_as_another_forward_pass(bert):
    plain, checkpointed = loop_of(bert), loop_of(bert, checkpointing=True)
    plain.points = checkpointed.points = ()
    assert checkpointed.advance(1) * 3 == plain.advance(1) * 4


def examples(count, seed):
    rng = np.random.default_rng(seed)
    words = {"up": ["good", "charm", "great"], "down": ["bad", "dull", "worst"]}
    labels = [list(words)[int(rng.integers(2))] for _ in range(count)]
    return tuple(
        Example(id=f"{seed}-{i}", fields={"text": " ".join(rng.choice(words[label], size=3))}, target=label)
        for i, label in enumerate(labels)
    )


@pytest.fixture
def context(bert):
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32"),
        labels=("down", "up"),
        base=bert,
        folds=(Fold(train=examples(40, 0), race=examples(15, 1)),),
        features=lambda rows: bert.features([row.texts for row in rows], "keep_start"),
        work=10**9,
        seed=11,
        train_tokens=400,
        race_tokens=150,
    )


def quick(**values):
    return FullConfig(**{"epochs": 2.0, "batch_size": 8, "learning_rate": 3e-3, **values})


@pytest.mark.parametrize(
    "options", [{"layer_decay": 0.8}, {"checkpointing": True}, {"top_layers": 1}, {"top_layers": 2, "layer_decay": 0.5}]
)
def test_predictors_answer_as_the_bracket_did(context, options):
    bracket = Full().open(context, [quick(**options)])
    bracket.advance(bracket.horizon)
    for answer, seen in zip(bracket.predictor(0).predict(context.fold.race), bracket.predictions()[0], strict=True):
        assert answer.scores == pytest.approx(seen.scores, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"top_layers": 1}])
def test_the_work_that_is_stated_is_spent(context, options):
    bracket = Full().open(context, [quick(**options)])
    loop = bracket.loops[0]
    loop.plan = dataclasses.replace(loop.plan, patience=99)
    exact = dataclasses.replace(
        context, train_tokens=loop.objective.train.tokens.tokens, race_tokens=loop.objective.race.tokens.tokens
    )
    cost = Full().cost(exact, quick(**options))
    assert bracket.advance(bracket.horizon) == pytest.approx(cost.work, abs=20)
    assert cost.trainable_parameters == pytest.approx(bracket.trainable_parameters(0), rel=0.1)


def test_checkpointing_and_few_layers_are_stated_to_take_less_memory(context):
    """4,096 tokens of 32 numbers, 34 times for each of 3 blocks; or 34 times for one, and what enters the three."""
    unit = 4096 * 32 * 4
    whole, checkpointed = (Full().cost(context, quick(checkpointing=on)) for on in (False, True))
    assert whole.memory_bytes - checkpointed.memory_bytes == unit * (3 * 34 - (34 + 3))
    consistent = Full().cost(context, quick(consistency=1.0))
    assert consistent.memory_bytes - whole.memory_bytes == unit * 3 * 34
    assert consistent.work - whole.work == 2 * 3 * 400
    top, top_checkpointed = (Full().cost(context, quick(top_layers=2, checkpointing=on)) for on in (False, True))
    assert top.memory_bytes - top_checkpointed.memory_bytes == unit * (2 * 34 - (34 + 2))


def test_what_is_kept_is_said(context):
    bracket = Full().open(context, [quick(top_layers=1), quick(top_layers=1, learning_rate=1e-3), quick()])
    (note,) = bracket.notes
    assert note.startswith("full: the lower 2 of 3 blocks are computed once for ")


def test_bfloat16_trains_the_last_blocks_in_bfloat16_from_masters_in_float32(bert):
    half = dataclasses.replace(bert.info)
    rows = Rows(bert.encode(TEXTS, "keep_start"), np.array([0, 1, 2, 0]))
    twin = type(bert)(half, shared_tree(bert.model, torch.bfloat16), bert.tokenizer)
    lower = LowerBlocks(twin, 1, [rows.tokens])
    assert lower.share == pytest.approx(1 / 3), lower.note
    population = FullPopulation(
        bert,
        HeadStart(labels=3),
        used_tokens=np.unique(np.concatenate(rows.tokens.ids)),
        dtype=torch.bfloat16,
        lower=lower,
    )
    start = population.export(population.flat.values_PN[0])
    assert all(torch.equal(start[name], own) for name, own in bert.model.named_parameters())
    loop = Loop(
        population, Labels(rows, rows, 3), Plan(epochs=20, batch_size=4, seed=3), [Settings(learning_rate=3e-3)]
    )
    loop.advance(loop.horizon)
    losses = loop.curve(0).train_losses
    assert losses[-1] < 0.8 * losses[0]
    assert population.flat.values_PN.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"layer_decay": 0.0}, "full: `layer_decay` must be above 0 and at most 1, got 0.0."),
        ({"layer_decay": 1.1}, "full: `layer_decay` must be above 0 and at most 1, got 1.1."),
        ({"top_layers": 0}, "full: `top_layers` must be 1 or more, got 0. To train no block use 'linear_probe'."),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as caught:
        FullConfig(**values)
    assert str(caught.value) == sentence


def test_layer_decay_is_searched_last():
    assert list(SEARCHED)[-1] == "layer_decay"
    assert SEARCHED["layer_decay"].values == (1.0, 0.9)
