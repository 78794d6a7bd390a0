"""The lora rung: its config, its bracket, and predictors that answer as the bracket did."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tunewise.adapters.stack import Stack
from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError, NotEnoughMemory
from tunewise.methods import trained
from tunewise.methods.base import Bracket, Context, Fold, proposed
from tunewise.methods.bench import LabelBench
from tunewise.methods.lora import Lora, LoraConfig
from tunewise.methods.trained import choose_population
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.types import Example

WORDS = {"up": ["good", "charm", "great"], "down": ["bad", "dull", "worst"], "flat": ["card", "account", "order"]}


def examples(count, seed):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        label = list(WORDS)[int(rng.integers(3))]
        text = " ".join(rng.choice(WORDS[label], size=rng.integers(1, 5)))
        out.append(Example(id=str(i), fields={"text": text}, target=label))
    return tuple(out)


def context_of(base, **options):
    train, race = examples(40, 0), examples(15, 1)
    values = {"labels": tuple(sorted(WORDS)), "folds": (Fold(train=train, race=race),), **options}
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32"),
        base=base,
        features=lambda rows: base.features([row.texts for row in rows], "keep_start"),
        work=10**9,
        seed=11,
        train_tokens=400,
        race_tokens=150,
        **values,
    )


@pytest.fixture
def context(tiny):
    return context_of(tiny)


def quick(**values):
    return LoraConfig(**{"epochs": 2.0, "batch_size": 8, "rank": 2, "learning_rate": 1e-2, **values})


@pytest.fixture
def stacked(monkeypatch):
    """Stack whatever can be, so that no test depends on how fast the machine is."""
    from tunewise.training.loop import Loop

    monkeypatch.setattr(Loop, "step_seconds", lambda loop: 1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rank": 0}, "lora: `rank` must be 1 or more, got 0. For no update use 'linear_probe'."),
        ({"alpha": 0.0}, "lora: `alpha` must be a finite number above 0, got 0.0."),
        ({"learning_rate": 0.0}, "lora: `learning_rate` must be a finite number above 0, got 0.0."),
        ({"learning_rate": 1e9}, "lora: `learning_rate` must be at most 1, got 1000000000.0."),
        ({"weight_decay": float("nan")}, "lora: `weight_decay` must lie between 0 and 1"),
        ({"epochs": 0.0}, "lora: `epochs` must be a finite number above 0, got 0.0."),
        ({"epochs": float("inf")}, "lora: `epochs` must be a finite number above 0, got inf."),
        ({"batch_size": 0}, "lora: `batch_size` must be 1 or more, got 0."),
        ({"dropout": 1.0}, "lora: `dropout` must lie between 0 and 1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as caught:
        LoraConfig(**values)
    assert sentence in str(caught.value)


def test_a_bracket_is_a_bracket(context, stacked):
    bracket = Lora().open(context, [quick()])
    assert isinstance(bracket, Bracket)
    assert (bracket.size, bracket.horizon, bracket.fidelity) == (1, 10, 0)


def test_predictors_answer_as_the_bracket_did(context, stacked):
    bracket = Lora().open(context, [quick(), quick(learning_rate=3e-2, alpha=4.0), quick(head_init="zeros")])
    work = bracket.advance(bracket.horizon)
    assert work > 0
    assert bracket.fidelity == 10
    losses = bracket.losses()
    assert losses.shape == (3, 15)
    targets = [example.target for example in context.fold.race]
    for member in range(3):
        answers = bracket.predictor(member).predict(context.fold.race)
        measured = bracket.predictions()[member]
        for answer, seen, target, loss in zip(answers, measured, targets, losses[member], strict=True):
            assert answer.text == seen.text
            assert answer.scores == pytest.approx(seen.scores, abs=1e-5)
            assert -np.log(answer.scores[target]) == pytest.approx(loss, abs=1e-4)
    assert np.mean([a.text == t for a, t in zip(bracket.predictions()[0], targets, strict=True)]) > 0.6


def test_members_with_one_structure_are_stacked_and_the_others_are_not(context, stacked):
    bracket = Lora().open(context, [quick(), quick(rank=4), quick(learning_rate=1e-3)])
    assert bracket.groups == [[0, 2], [1]]
    assert any("stacked: a step of 2 takes" in note for note in bracket.notes)


def test_ranks_that_share_a_stack_answer_as_they_do_alone(context, stacked, monkeypatch):
    configs = [quick(), quick(rank=4, dropout=0.2), quick(rank=3, weight_decay=0.3)]
    alone = Lora().open(context, configs)
    # as on a GPU
    monkeypatch.setattr(Lora, "structure", lambda lora, context, config: "one")
    monkeypatch.setattr(Stack, "_drawn_with", drawn_together)
    together = Lora().open(context, configs)
    assert (together.groups, alone.groups) == ([[0, 1, 2]], [[0], [1], [2]])
    assert together.advance(10) == alone.advance(10)
    np.testing.assert_allclose(together.losses(), alone.losses(), atol=1e-4)
    assert [together.trainable_parameters(i) for i in range(3)] == [alone.trainable_parameters(i) for i in range(3)]
    for member in range(3):
        own, other = (bracket.predictor(member).predict(context.fold.race) for bracket in (together, alone))
        assert [answer.scores for answer in own] == [pytest.approx(answer.scores, abs=1e-4) for answer in other]


def drawn_together(stack, site, features, numbers):
    known = stack._sites.setdefault(features, [])
    known += [site] if site not in known else []
    return known[known.index(site) :]


def test_stacked_or_not_the_losses_are_the_same(context, stacked, monkeypatch):
    configs = [quick(), quick(learning_rate=1e-3, dropout=0.2), quick(weight_decay=0.3)]
    together = Lora().open(context, configs)
    monkeypatch.setattr(trained.Loop, "step_seconds", lambda loop: float(loop.size) ** 2)
    alone = Lora().open(context, configs)
    assert (together.groups, alone.groups) == ([[0, 1, 2]], [[0], [1], [2]])
    assert together.advance(10) == alone.advance(10)
    np.testing.assert_allclose(together.losses(), alone.losses(), atol=1e-4)


def test_a_base_that_cannot_be_stacked_is_trained_one_by_one(tmp_path):
    base = load_base(str(tiny_encoder(tmp_path, architecture="deberta-v2")), device="cpu", dtype="float32")
    bracket = Lora().open(context_of(base), [quick(), quick(learning_rate=1e-3)])
    assert bracket.groups == [[0], [1]]
    assert any("this base trains one member at a time" in note for note in bracket.notes)
    bracket.advance(2)
    assert np.isfinite(bracket.losses()).all()


def test_keep_reorders_and_drops(context, stacked):
    bracket = Lora().open(context, [quick(), quick(rank=4), quick(learning_rate=1e-3), quick(dropout=0.1)])
    bracket.advance(5)
    before = bracket.losses()
    bracket.keep([3, 0])
    np.testing.assert_array_equal(bracket.losses(), before[[3, 0]])
    assert bracket.groups == [[0, 3]], "who is dropped is not trained on"
    bracket.advance(10)
    bracket.keep([1])
    straight = Lora().open(context, [quick()])
    straight.advance(10)
    np.testing.assert_allclose(bracket.losses(), straight.losses(), atol=1e-4)


def test_a_bracket_resumes_exactly(context, stacked):
    configs = [quick(), quick(rank=4), quick(learning_rate=1e-3)]
    straight = Lora().open(context, configs)
    straight.advance(4)
    straight.keep([2, 1])
    tensors, meta = straight.state()
    resumed = Lora().open(context, configs)
    resumed.restore(tensors, json.loads(json.dumps(meta, allow_nan=False)))
    assert (resumed.size, resumed.fidelity) == (2, 4)
    for bracket in (straight, resumed):
        bracket.advance(10)
    np.testing.assert_array_equal(straight.losses(), resumed.losses())
    assert straight.curve(0) == resumed.curve(0)


def test_a_diverged_member_is_named_and_has_no_predictor(context, stacked):
    from tunewise.errors import RunError

    bracket = Lora().open(context, [quick(), quick(learning_rate=1e-3)])
    bracket.loops[0].members[1].diverge("diverged: loss nan at step 3 of 10, learning rate 0.001")
    bracket.advance(10)
    assert bracket.failure(0) is None
    assert "loss nan at step 3" in bracket.failure(1)
    assert np.isnan(bracket.losses()[1]).all()
    assert np.isfinite(bracket.losses()[0]).all()
    assert bracket.predictions()[1] == []
    with pytest.raises(RunError, match=r"has no predictor: diverged: loss nan .* Use a lower learning rate"):
        bracket.predictor(1)


def test_a_head_that_starts_at_the_probe_starts_as_good(context, stacked):
    from tunewise.methods.linear_probe import LinearProbe, LinearProbeConfig

    probe = LinearProbe().open(context, [LinearProbeConfig(c=1.0)])
    probe.advance(1)
    bracket = Lora().open(context, [quick(learning_rate=1e-12)])
    bracket.advance(1)
    np.testing.assert_allclose(bracket.losses(), probe.losses(), atol=1e-3)


def test_cost_is_what_training_takes(context, stacked):
    bench = LabelBench(context)
    exact = context_of(context.base)
    object.__setattr__(exact, "train_tokens", bench.train.tokens.tokens)
    object.__setattr__(exact, "race_tokens", bench.race.tokens.tokens)
    cost = Lora().cost(exact, quick())
    bracket = Lora().open(exact, [quick()])
    for loop in bracket.loops:
        loop.plan = dataclasses.replace(loop.plan, patience=99)
    assert cost.trainable_parameters == bracket.trainable_parameters(0)
    assert bracket.advance(10) == cost.work
    assert cost.fits is None


def test_a_few_rows_are_read_on_the_way_and_the_others_once(context, stacked, monkeypatch):
    monkeypatch.setattr("tunewise.training.rows.LEAST_WATCHED", 6)
    bracket = Lora().open(context, [quick()])
    bracket.advance(bracket.horizon)
    (loop,) = bracket.loops
    read, score = [], loop.score
    monkeypatch.setattr(loop, "score", lambda rows, members: read.append(rows.sizes.rows) or score(rows, members))
    rows = tuple(context.watched(context.race))
    (some,) = bracket.predictions(rows)
    assert (len(some), read) == (6, [])
    (whole,) = bracket.predictions()
    assert (len(whole), read) == (15, [15])
    for row, answer in zip(rows, some, strict=True):
        assert answer.scores == pytest.approx(whole[row].scores, abs=1e-5)
    assert context.watched_tokens == 60
    assert context.closing_tokens == context.race_tokens


def test_where_the_lower_blocks_are_kept_an_answer_costs_the_upper_ones(context, stacked):
    whole, upper = (Lora().open(context, [quick(top_layers=top)]) for top in (None, 1))
    assert whole.reading_work(0, 100) == 100
    assert upper.reading_work(0, 100) == round(100 * upper.loops[0].work_share) < 100


def test_one_label_is_skipped_with_its_reason(context):
    rows = tuple(row for row in context.fold.train if row.target == "up")
    alone = context_of(context.base, folds=(Fold(train=rows, race=context.fold.race),))
    assert "the training rows hold 1 label (up)" in Lora().skip(alone)
    assert Lora().skip(context) is None


class Space:
    """Says the default first, then something else."""

    def __init__(self, default):
        self.default = default

    def ask(self, parameters, n):
        names = list(parameters)
        assert names[0] == "learning_rate"
        assert names[-1] == "rank"
        return [{name: getattr(self.default, name) for name in names}, {"learning_rate": 2e-3, "rank": 16}][:n]


def test_a_proposal_is_never_the_default(context):
    default = Lora().default(context)
    found = proposed(Lora(), context, Space(default), np.random.default_rng(0), 2)
    assert [(config.learning_rate, config.rank, config.epochs) for config in found] == [(2e-3, 16, default.epochs)]


def test_a_recorded_layout_is_used_again(context, stacked):
    configs = [quick(), quick(learning_rate=1e-3)]
    assert Lora().open(context, configs).layout == [[0, 1]]
    assert Lora().open(context_of(context.base, layout=[[0], [1]]), configs).groups == [[0], [1]]


def test_choosing_does_not_train(context, stacked):
    bench = LabelBench(context)
    assert bench.watched.tokens.rows == 15
    bracket = Lora().open(context, [quick(), quick(learning_rate=1e-3)])
    fresh = Lora().open(context, [quick(), quick(learning_rate=1e-3)])
    groups, _ = choose_population(bracket._build, [0, 1])
    assert groups == [[0, 1]]
    for a, b in zip(bracket.loops, fresh.loops, strict=True):
        assert torch.equal(a.population.flat.values_PN, b.population.flat.values_PN)
        assert a.step == 0


class Stopwatch:
    """A loop that says how long its step takes, and that memory holds so many members."""

    def __init__(self, members, seconds, most=99):
        if len(members) > most:
            raise NotEnoughMemory("training: not enough memory")
        self.seconds = seconds(len(members))

    def step_seconds(self):
        return self.seconds


def test_members_are_stacked_where_a_step_is_no_slower_so():
    free, dear = (lambda n: 1.0), (lambda n: 1.1 * n - 0.1)
    assert choose_population(lambda m: Stopwatch(m, free), [3, 4, 5])[0] == [[3, 4, 5]]
    groups, why = choose_population(lambda m: Stopwatch(m, dear), [3, 4, 5])
    assert groups == [[3], [4], [5]]
    assert why == "trained one by one: a step of 3 takes 3200 ms stacked, 3000 ms one by one"


def test_a_population_that_does_not_fit_in_memory_is_halved():
    groups, why = choose_population(lambda m: Stopwatch(m, lambda n: 1.0, most=2), list(range(7)))
    assert max(map(len, groups)) == 2
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert why.startswith("7 candidates do not fit in memory together, so half of them: ")
