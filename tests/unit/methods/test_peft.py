"""Rungs of the PEFT library: trained by our loop, kept in its format, refused in its words, ranked before `full`."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tunewise
from tunewise.adapters.files import load_adapter
from tunewise.adapters.lora import LoraForm
from tunewise.adapters.peft_any import PeftForm, completed, form_of
from tunewise.config import Budget, DataConfig, Task
from tunewise.errors import BundleError, ConfigError
from tunewise.methods import LADDER, cost_rank, get_method, in_order
from tunewise.methods.base import Context, Fold
from tunewise.methods.peft import Peft, PeftRungConfig
from tunewise.models.load import load_base
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.bundle import load_predictor
from tunewise.training.peft_population import PeftPopulation
from tunewise.training.population import HeadStart
from tunewise.types import Example

WORDS = {"up": ["good", "charm", "great"], "down": ["bad", "dull", "worst"], "flat": ["card", "account", "order"]}
KINDS = ("VERA", "OFT", "LOHA", "BOFT", "IA3", "LN_TUNING", "OSF", "LORA", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def examples(count: int, seed: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        label = list(WORDS)[int(rng.integers(3))]
        text = " ".join(rng.choice(WORDS[label], size=rng.integers(1, 5)))
        out.append(Example(id=str(i), fields={"text": text}, target=label))
    return tuple(out)


def context_of(base, **options) -> Context:
    values = {"folds": (Fold(train=examples(40, 0), race=examples(15, 1)),), "work": 10**9, **options}
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32", truncation="keep_start"),
        labels=tuple(sorted(WORDS)),
        base=base,
        features=lambda rows: base.features([row.texts for row in rows], "keep_start"),
        seed=11,
        train_tokens=400,
        race_tokens=150,
        **values,
    )


@pytest.fixture
def context(tiny) -> Context:
    return context_of(tiny)


def quick(**values) -> PeftRungConfig:
    return PeftRungConfig(**{"epochs": 3.0, "batch_size": 8, "learning_rate": 1e-2, **values})


def finished(context, peft_type, *configs):
    bracket = Peft(peft_type).open(context, configs or [quick()])
    bracket.advance(bracket.horizon)
    return bracket


def shares(predictions):
    return np.array([list(p.scores.values()) for p in predictions])


@pytest.mark.parametrize("peft_type", KINDS)
def test_an_adapter_learns_is_scored_as_it_answers_and_comes_back_from_disk(context, tmp_path, peft_type):
    method = Peft(peft_type)
    assert method.skip(context) is None
    before = {name: value.clone() for name, value in context.base.model.state_dict().items()}
    # from a head of zeros, so that there is something to learn
    bracket = finished(context, peft_type, quick(head_init="zeros", epochs=10.0))
    losses = bracket.curve(0).train_losses
    half = len(losses) // 2  # whole passes over the same rows
    assert np.mean(losses[half:]) < np.mean(losses[:half])
    said, predictor = bracket.predictions()[0], bracket.predictor(0)
    bracket.close()
    race = context.fold.race
    np.testing.assert_allclose(shares(predictor.predict(race)), shares(said), atol=1e-5)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert type(loaded.adapter).peft_type == peft_type
    np.testing.assert_array_equal(shares(loaded.predict(race)), shares(predictor.predict(race)))
    alone = shares([loaded.predict([row])[0] for row in race])
    np.testing.assert_allclose(alone, shares(said), atol=1e-5)
    after = context.base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in context.base.model.parameters())


@pytest.mark.parametrize("peft_type", ["VERA", "OFT", "PROMPT_TUNING"])
def test_the_adapter_itself_is_trained_and_not_the_head_alone(context, peft_type):
    bracket = finished(context, peft_type, quick(epochs=1.0))
    texts = [example.texts for example in context.fold.race]
    plain = context.base.features(texts, "keep_start")
    assert np.abs(bracket.predictor(0).encoder.features(texts, "keep_start") - plain).max() > 1e-3


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.parametrize("peft_type", ["VERA", "OFT", "LN_TUNING", "OSF"])
def test_the_library_loads_what_was_trained_here(context, tmp_path, peft_type):
    import peft
    import transformers

    predictor = finished(context, peft_type).predictor(0)
    predictor.save(tmp_path)
    fresh = transformers.AutoModel.from_pretrained(context.base.info.path)
    theirs = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    ids = torch.tensor([[2, 8, 9, 10, 3], [2, 11, 12, 13, 3]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state
        found = predictor.encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_what_the_library_saved_answers_here(tiny, tmp_path):
    import peft
    import transformers

    fresh = transformers.AutoModel.from_pretrained(tiny.info.path)
    config = peft.LoHaConfig(r=2, target_modules=["query", "value"], init_weights=False, task_type="FEATURE_EXTRACTION")
    theirs = peft.get_peft_model(fresh, config).eval()
    theirs.save_pretrained(tmp_path)
    tensors, form = load_adapter(tmp_path)
    predictor = AdaptedPredictor(
        base=tiny,
        labels=("a", "b"),
        policy="refuse",
        weight_LH=np.zeros((2, 32)),
        bias_L=np.zeros(2),
        tensors=tensors,
        adapter=form,
    )
    ids = torch.tensor([[2, 8, 9, 10, 3]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state
        found = predictor.encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        plain = tiny.model(input_ids=ids).last_hidden_state
    assert float((found - expected).abs().max()) < 1e-5
    assert float((found - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_works_on_every_architecture(tmp_path, architecture, one_thread):
    base = load_base(str(tiny_encoder(tmp_path, architecture=architecture)), device="cpu", dtype="float32")
    context = context_of(base)
    for peft_type in ("VERA", "LN_TUNING", "PROMPT_TUNING", "PREFIX_TUNING"):
        reason = Peft(peft_type).skip(context)
        if peft_type == "PREFIX_TUNING" and reason is not None:
            assert reason.startswith("peft:PREFIX_TUNING: ")
            continue
        assert reason is None, (peft_type, reason)
        bracket = finished(context, peft_type, quick(epochs=1.0))
        answers = bracket.predictor(0).predict(context.fold.race)
        np.testing.assert_allclose(shares(answers), shares(bracket.predictions()[0]), atol=1e-5)


def test_results_do_not_depend_on_slices_nor_on_a_stop_in_between(context):
    configs = [quick(options={"vera_dropout": 0.2}), quick(learning_rate=3e-3, options={"vera_dropout": 0.2})]
    whole = finished(context, "VERA", *configs)
    first = Peft("VERA").open(context, configs)
    while first.fidelity < 5:
        first.advance(first.fidelity + 2)
    tensors, meta = first.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    second = Peft("VERA").open(dataclasses.replace(context, layout=first.layout), configs)
    second.restore(tensors, meta)
    second.advance(second.horizon)
    np.testing.assert_array_equal(whole.losses(), second.losses())


def test_a_member_that_stays_is_not_moved_by_those_that_go(context):
    rates = (1e-3, 1e-2, 3e-2)
    alone = finished(context, "OFT", quick(learning_rate=rates[1]))
    bracket = Peft("OFT").open(context, [quick(learning_rate=rate) for rate in rates])
    bracket.advance(bracket.horizon // 2)
    bracket.keep([1])
    bracket.advance(bracket.horizon)
    np.testing.assert_array_equal(bracket.losses(), alone.losses())


def test_its_own_dropout_is_on_in_training_and_that_of_the_base_is_off(context):
    plain, dropped = (finished(context, "VERA", quick(options={"vera_dropout": rate})) for rate in (0.0, 0.5))
    assert plain.curve(0).train_losses != dropped.curve(0).train_losses
    base = dataclasses.replace(context, base=with_base_dropout(context.base))
    assert finished(base, "VERA").curve(0).train_losses == finished(context, "VERA").curve(0).train_losses


def with_base_dropout(base):
    import copy

    from tunewise.models.tree import shared_tree

    twin = copy.copy(base)
    twin.model = shared_tree(base.model)
    for module in twin.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    return twin


def test_the_seed_decides_where_it_starts(context):
    one = finished(context, "LOHA").curve(0).train_losses
    assert finished(context, "LOHA").curve(0).train_losses == one
    starts = [population_of(context, "LOHA", seed).flat.values_PN for seed in (1, 1, 2)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("options", [{"init_lora_weights": "pissa"}, {"bias": "all"}])
def test_options_that_change_the_base_change_a_copy_of_it(context, tmp_path, options):
    before = {name: value.clone() for name, value in context.base.model.state_dict().items()}
    predictor = finished(context, "LORA", quick(epochs=1.0, options=options)).predictor(0)
    after = context.base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in context.base.model.parameters())
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    race = context.fold.race
    np.testing.assert_allclose(shares(loaded.predict(race)), shares(predictor.predict(race)), atol=1e-6)


def test_weights_that_an_adapter_leaves_alone_are_held_once(context):
    population = population_of(context, "VERA", seed=1)
    held = {parameter.data_ptr() for parameter in context.base.model.parameters()}
    frozen = [p for p in population.built.parameters() if not p.requires_grad and p.data_ptr() in held]
    assert len(frozen) == len(held)


def population_of(context, peft_type, seed):
    options = completed(peft_type, context.base.model, {})
    return PeftPopulation(context.base, peft_type, options, HeadStart(labels=3), seed=seed)


def test_global_randomness_is_left_alone(context):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    finished(context, "VERA", quick(epochs=1.0, options={"vera_dropout": 0.2})).predictor(0)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("peft:VEIRA", r"peft: the PEFT library has no type 'VEIRA'\. Did you mean 'VERA'\?"),
        ("peft:vera", r"Did you mean 'VERA'\?"),
        ("peft:XLORA", "cannot be trained here: it mixes adapters that were trained before"),
    ],
)
def test_a_type_that_is_not_there_is_answered_with_the_closest(name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        get_method(name)


def test_an_option_that_is_not_there_is_answered_with_the_closest(context):
    with pytest.raises(ConfigError, match=r"peft:VERA: there is no option 'vera_dropot'. Did you mean 'vera_dropout'"):
        Peft("VERA").open(context, [quick(options={"vera_dropot": 0.1})])


@pytest.mark.parametrize(
    ("peft_type", "sentence"),
    [
        ("ADALORA", "AdaLoRA does not work when `total_step` is None, supply a value > 0."),
        ("MISS", "`r` (64) must be less than or equal to in_features (32)."),
        ("ADAPTION_PROMPT", "Unsupported model type for adaption prompt: 'bert'."),
    ],
)
def test_a_base_is_refused_in_the_librarys_own_words_and_still_has_a_cost(context, peft_type, sentence):
    method = Peft(peft_type)
    assert method.skip(context) == f"peft:{peft_type}: {sentence}"
    assert method.cost(context, method.default(context)).work > 0


def test_what_cannot_reach_the_answer_is_refused(context, monkeypatch):
    """As where a base takes the library's inputs and ignores them."""
    from tunewise.training import peft_population

    pooled = peft_population.pooled
    monkeypatch.setattr(peft_population, "pooled", lambda *args, **values: pooled(*args, **values).detach())
    context = dataclasses.replace(context, base=with_base_dropout(context.base))
    assert Peft("VERA").skip(context) == (
        "peft:VERA: nothing of it reaches the answer of this base, so it cannot learn."
    )


def test_what_would_be_lost_on_disk_is_refused(context, monkeypatch):
    from tunewise.training import peft_population

    kept = peft_population.adapter_state
    lose = lambda built: {name: torch.zeros_like(tensor) for name, tensor in kept(built).items()}  # noqa: E731
    monkeypatch.setattr(peft_population, "adapter_state", lose)
    context = dataclasses.replace(context, base=with_base_dropout(context.base))
    assert "does not keep all of it on disk" in str(Peft("OFT").skip(context))


def test_a_soft_prompt_leaves_room_for_itself(tiny):
    rows = tuple(
        Example(id=str(i), fields={"text": "card " * 100 + word}, target=label)
        for i, (label, words) in enumerate(list(WORDS.items()) * 3)
        for word in words[:1]
    )
    context = context_of(tiny, folds=(Fold(train=rows, race=rows),))
    predictor = finished(context, "PROMPT_TUNING", quick(epochs=1.0)).predictor(0)
    assert predictor.encoder.info.max_tokens == tiny.info.max_tokens - 20
    assert len(predictor.predict(rows)) == len(rows)


def test_an_adapter_of_ours_and_one_of_the_library_are_told_apart_on_disk(context, tmp_path):
    finished(context, "LORA", quick(epochs=1.0, options={"bias": "all"})).predictor(0).save(tmp_path)
    assert isinstance(load_adapter(tmp_path / "adapter")[1], PeftForm)
    plain = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (plain["peft_type"], plain["bias"], plain["task_type"]) == ("LORA", "all", "FEATURE_EXTRACTION")
    assert not isinstance(form_of("LORA"), LoraForm)


def test_a_damaged_adapter_is_refused(context, tmp_path):
    finished(context, "VERA", quick(epochs=1.0)).predictor(0).save(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    whole = json.loads(path.read_text())
    for changes, sentence in (
        ({"r": 3}, "should have shape"),
        ({"r": -1}, "peft:VERA: "),
        ({"peft_type": "SHADOW"}, "it reads a second pre-trained model"),
        ({"num_virtual_tokens": "many"}, "must be a whole number above 0"),
    ):
        path.write_text(json.dumps({**whole, **changes}))
        with pytest.raises(BundleError, match=sentence):
            AdaptedPredictor.load(tmp_path, lambda name: context.base)


def test_library_rungs_stand_before_full_and_only_where_they_are_named():
    assert in_order(None) == tuple(LADDER)
    asked = ("full", "peft:OFT", "majority", "peft:VERA")
    assert in_order(asked) == ("majority", "peft:OFT", "peft:VERA", "full")
    assert cost_rank("lora") < cost_rank("peft:OFT") == cost_rank("peft:VERA") < cost_rank("full")


def test_a_fit_that_names_them_ends_in_a_verdict(tiny_base: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    rows = ["text,label", *(f"{e.fields['text']} {i},{e.target}" for i, e in enumerate(examples(80, 5)))]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = Task(
        name="library",
        data=DataConfig(train=str(tmp_path / "rows.csv")),
        metric="accuracy",
        models=(str(tiny_base),),
        methods=("full", "peft:MISS", "majority", "peft:VERA", "peft:OFT"),
        dtype="float32",
        device="cpu",
        budget=Budget(trials=4, work=500_000),
    )
    run = tunewise.fit(task, out=tmp_path / "run")
    found = {row["method"]: row for row in run.verdict["rungs"]}
    assert list(found) == ["majority", "peft:MISS", "peft:VERA", "peft:OFT", "full"]
    assert found["peft:MISS"]["status"] == "skipped"
    assert "`r` (64) must be less than" in found["peft:MISS"]["reason"]
    for name in ("peft:VERA", "peft:OFT"):
        assert found[name]["status"] == "finished", found[name]
        assert found[name]["held_out"]["score"] > 0.5
        assert found[name]["trainable_parameters"] > 0
    assert "peft:VERA" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert len(run.bundle.predict(["good great charm", "dull"])) == 2
