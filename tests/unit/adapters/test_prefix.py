"""Prefixes: the same numbers as PEFT, members that do not see each other, bases that cannot hold one are named."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tunewise.adapters.files import load_adapter, save_adapter
from tunewise.adapters.prefix import PrefixForm, PrefixStack, keys_and_values, refusal
from tunewise.adapters.soft_prompt import TextMember
from tunewise.adapters.stack import Member, Pass
from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError, ModelError
from tunewise.methods.base import Context, Fold
from tunewise.methods.prefix_tuning import PrefixTuning, PrefixTuningConfig, start_tokens
from tunewise.methods.prompt_tuning import words_of
from tunewise.models.encoder import Encoder, collate
from tunewise.models.load import load_base
from tunewise.models.packed import packed
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tree import shared_tree
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.training.adapted import StackedPopulation
from tunewise.training.labels import Labels
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.population import HeadStart
from tunewise.training.rows import Rows
from tunewise.types import Example

# PEFT asks transformers for a property under its old name; missing or unexpected weights still are errors
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LENGTH = 5
TEXTS = [("the card was stolen",), ("how do I reset the password of my account",), ("never dull",)]
FORM = PrefixForm(layers=2, heads=2)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}

    def base(architecture):
        if architecture not in made:
            folder = tiny_encoder(tmp_path_factory.mktemp("bases"), architecture=architecture)
            made[architecture] = load_base(str(folder), device="cpu", dtype="float32")
        return made[architecture]

    return base


@pytest.fixture(params=["bert", "roberta", "electra"])
def encoder(request, bases, one_thread):
    return bases(request.param)


def batch_of(encoder, texts=TEXTS):
    tokens = encoder.encode(texts, "keep_start")
    return collate(tokens, range(len(texts)), pad_id=encoder.pad_id, device=encoder.device)


def inputs_of(batch, members=1):
    plain = {"input_ids": batch.input_ids_ST, "attention_mask": batch.attention_mask_ST}
    return {name: tensor.repeat(members, 1) for name, tensor in plain.items()}


def prefixes(encoder, members=1):
    stack = PrefixStack(encoder.model, [Member()] * members, length=LENGTH)
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(tensor.shape, generator=rng) for name, tensor in stack.start().items()}


def attached(encoder, tensors, active=None):
    """The base with these members [P, ...] in it."""
    tree = shared_tree(encoder.model)
    members, length = tensors["prefix"].shape[:2]
    stack = PrefixStack(tree, [Member()] * members, length=length)
    stack.bind(tensors)
    stack.now = Pass(active=tuple(range(members)) if active is None else active, sequences=0, positions=0)
    return stack.attach(tree)


def only(tensors, p):
    return {name: tensor[p : p + 1] for name, tensor in tensors.items()}


def hidden(model, inputs):
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def theirs(encoder, tensors, **options):
    import peft
    import transformers

    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH, **options)
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(encoder.info.path), config).eval()
    if not options:
        model.prompt_encoder["default"].embedding.weight.data = tensors["prefix"][0].clone()
    return model


def largest(first, second):
    return float((first - second).abs().max())


def test_hidden_states_equal_those_of_peft(encoder):
    tensors, inputs = prefixes(encoder), inputs_of(batch_of(encoder))
    assert int(inputs["attention_mask"].min()) == 0, "some text must be padded"
    ours, expected = hidden(attached(encoder, tensors), inputs), hidden(theirs(encoder, tensors), inputs)
    seen = inputs["attention_mask"].bool()
    assert largest(ours[seen], expected[seen]) < 1e-5
    assert largest(ours[seen], hidden(encoder.model, inputs)[seen]) > 1e-2, "the prefix must show"


def test_every_pass_starts_from_the_prefix_alone(encoder):
    model, inputs = attached(encoder, prefixes(encoder)), inputs_of(batch_of(encoder))
    assert torch.equal(hidden(model, inputs), hidden(model, inputs))


def test_token_types_are_dropped_as_in_peft(tiny):
    model, inputs = attached(tiny, prefixes(tiny)), inputs_of(batch_of(tiny))
    types = torch.ones_like(inputs["input_ids"])
    assert torch.equal(hidden(model, {**inputs, "token_type_ids": types}), hidden(model, inputs))


def test_three_members_answer_as_each_does_alone(encoder):
    tensors, batch = prefixes(encoder, 3), batch_of(encoder)
    together = hidden(attached(encoder, tensors), inputs_of(batch, 3)).view(3, len(TEXTS), -1)
    for p in range(3):
        alone = hidden(attached(encoder, only(tensors, p)), inputs_of(batch)).flatten(1)
        assert largest(together[p], alone) < 1e-5
        assert largest(together[p], together[p - 1]) > 1e-2
    some = hidden(attached(encoder, tensors, active=(2, 0)), inputs_of(batch, 2)).view(2, len(TEXTS), -1)
    assert largest(some, together[[2, 0]]) < 1e-5


def test_gradients_reach_every_layer_of_every_member_and_only_its_own_rows(encoder):
    tensors, batch = prefixes(encoder, 3), batch_of(encoder)
    leaf = tensors["prefix"].requires_grad_()
    out = attached(encoder, tensors)(**inputs_of(batch, 3)).last_hidden_state.view(3, len(TEXTS), -1)
    target = torch.randn(out[0].shape, generator=torch.Generator().manual_seed(2))
    for p in range(3):
        (gradient,) = torch.autograd.grad((out[p] * target).sum(), leaf, retain_graph=True)
        of_parts = gradient[p].view(LENGTH, 4, -1).abs().amax(dim=-1)
        assert (of_parts > 1e-9).all(), "every key and value of every layer must learn"
        assert not gradient[[q for q in range(3) if q != p]].any()


def test_padding_and_neighbours_change_nothing(encoder):
    tensors = prefixes(encoder)
    together = hidden(attached(encoder, tensors), inputs_of(batch_of(encoder)))
    for i, text in enumerate(TEXTS):
        alone = hidden(attached(encoder, tensors), inputs_of(batch_of(encoder, [text])))[0]
        assert largest(together[i, : len(alone)], alone) < 1e-5


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="layers are packed with oneDNN alone")
def test_packed_layers_answer_the_same(encoder):
    model, inputs = attached(encoder, prefixes(encoder)), inputs_of(batch_of(encoder))
    with torch.inference_mode():
        fast = packed(model, 64, lambda each: each(**inputs).last_hidden_state)
        assert fast is not model
        seen = inputs["attention_mask"].bool()
        assert largest(fast(**inputs).last_hidden_state[seen], hidden(model, inputs)[seen]) < 1e-4


def test_peft_loads_what_is_saved_here(encoder, tmp_path):
    import peft
    import transformers

    tensors, inputs = prefixes(encoder), inputs_of(batch_of(encoder))
    save_adapter({"prefix": tensors["prefix"][0]}, FORM, tmp_path)
    model = transformers.AutoModel.from_pretrained(encoder.info.path)
    expected = hidden(peft.PeftModel.from_pretrained(model, tmp_path).eval(), inputs)
    seen = inputs["attention_mask"].bool()
    assert largest(hidden(attached(encoder, tensors), inputs)[seen], expected[seen]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"prefix_projection": True, "encoder_hidden_size": 8}])
def test_what_peft_saves_loads_here(encoder, tmp_path, options):
    inputs = inputs_of(batch_of(encoder))
    model = theirs(encoder, prefixes(encoder), **options)
    model.save_pretrained(tmp_path)
    loaded, form = load_adapter(tmp_path)
    assert form == FORM
    tree = shared_tree(encoder.model)
    stack = form.stack(tree, loaded)
    stack.bind({name: tensor[None] for name, tensor in loaded.items()})
    seen = inputs["attention_mask"].bool()
    assert largest(hidden(stack.attach(tree), inputs)[seen], hidden(model, inputs)[seen]) < 1e-5


def test_a_text_at_the_limit_is_cut_by_the_prefix_and_answered(encoder):
    predictor = AdaptedPredictor(
        base=encoder,
        labels=("a", "b"),
        policy="keep_start",
        weight_LH=np.ones((2, encoder.info.hidden_size)),
        bias_L=np.zeros(2),
        tensors={"prefix": prefixes(encoder)["prefix"][0]},
        adapter=FORM,
    )
    long = Example(id="0", fields={"text": "card " * 500})
    limit = encoder.info.max_tokens
    assert len(predictor.encoder.encode([long.texts], "keep_start").ids[0]) == limit - LENGTH
    assert len(encoder.encode([long.texts], "keep_start").ids[0]) == limit
    assert predictor.predict([long])[0].text in ("a", "b")


# --- where it starts


def test_a_prefix_that_starts_at_a_text_is_what_the_base_computes_for_it(encoder):
    base = encoder.model
    ids_1M = torch.tensor([[7, 8, 9, 10, 11]])
    prefix_MW = keys_and_values(base, ids_1M)
    outputs = base(input_ids=ids_1M, output_hidden_states=True)
    for number, layer in enumerate(base.encoder.layer):
        attention, before_MH = layer.attention.self, outputs.hidden_states[number][0]
        parts = prefix_MW.view(LENGTH, 2, 2, -1)[:, number]
        assert largest(parts[:, 0], attention.key(before_MH)) < 1e-5
        assert largest(parts[:, 1], attention.value(before_MH)) < 1e-5


def test_a_prefix_starts_at_its_text_cycled_or_at_noise_of_its_seed(tiny):
    members = [TextMember(text=lambda: [7, 9]), Member(seed=4)]
    start = PrefixStack(tiny.model, members, length=LENGTH).start()["prefix"]
    assert torch.equal(start[0], keys_and_values(tiny.model, torch.tensor([[7, 9, 7, 9, 7]])))
    alone = PrefixStack(tiny.model, [Member(seed=4)], length=LENGTH).start()["prefix"]
    assert torch.equal(start[1], alone[0])
    assert float(alone.std()) == pytest.approx(0.02, rel=0.2)
    assert not torch.equal(alone, PrefixStack(tiny.model, [Member(seed=5)], length=LENGTH).start()["prefix"])


class DoubleEncoder(Encoder):
    """Pools in float64, so that rounding does not hide a difference."""

    def pool_sequences(self, hidden_STH, batch):
        weight_ST = batch.attention_mask_ST.to(hidden_STH.dtype)
        return torch.einsum("sth,st->sh", hidden_STH, weight_ST) / weight_ST.sum(dim=1, keepdim=True)


@pytest.fixture
def loop(tiny):
    base = copy.copy(tiny)
    base.__class__ = DoubleEncoder
    base.model = shared_tree(tiny.model, torch.float64)
    words = ["card", "stolen", "payment", "dull", "worst", "order"]
    rng = np.random.default_rng(0)
    texts = [(" ".join(rng.choice(words, size=rng.integers(1, 9))),) for _ in range(18)]
    rows = Rows(base.encode(texts, "keep_start"), np.arange(18) % 3)
    plan = Plan(epochs=2, batch_size=6, seed=3, evaluations=3)

    def build(members):
        def stack(model):
            chosen = [TextMember(seed=p, text=[None, lambda: [7, 8], lambda: [9]][p]) for p in members]
            return PrefixStack(model, chosen, length=LENGTH, rate=10.0)

        population = StackedPopulation(base, stack, HeadStart(labels=3))
        return Loop(population, Labels(rows, rows, 3), plan, [Settings(learning_rate=1e-3 * (p + 1)) for p in members])

    return build


def test_a_member_of_three_ends_as_itself_alone(loop):
    together, start = loop([0, 1, 2]), loop([0, 1, 2]).population.flat.values_PN
    together.advance(together.horizon)
    for p in range(3):
        alone = loop([p])
        alone.advance(alone.horizon)
        assert largest(alone.population.flat.values_PN[0], together.population.flat.values_PN[p]) < 1e-10
        moved = (alone.export(0)["prefix"] - together.population.export(start[p])["prefix"]).abs()
        assert (moved.view(LENGTH, 4, -1).amax(dim=-1) > 1e-3).all(), "every layer must have learnt"


def test_the_base_stays_as_it_was(loop, tiny):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    trained = loop([0, 1])
    trained.advance(trained.horizon)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.model.state_dict().items())
    assert trained.population.encoder.model.config.hidden_size == 32
    assert trained.population.trainable_parameters(0) == LENGTH * 2 * 2 * 32 + 3 * 33


# --- what is refused


@pytest.mark.parametrize("architecture", ["distilbert", "deberta-v2", "modernbert"])
def test_a_base_without_a_cache_is_skipped_with_its_reason(bases, architecture):
    base = bases(architecture)
    sentence = PrefixTuning().skip(context_of(base))
    assert sentence == (
        f"prefix_tuning: no keys and values can be put in front of the layers of {type(base.model).__name__}: "
        "it takes no `past_key_values`. Use 'prompt_tuning' or 'lora'."
    )
    assert PrefixTuning().cost(context_of(base), PrefixTuningConfig()).work > 0, "a plan can still be made"


def test_a_base_with_a_cache_is_not_refused(encoder):
    assert PrefixTuning().skip(context_of(encoder)) is None


class Odd(torch.nn.Module):
    """A base that treats its cache in a way of its own."""

    def __init__(self, base, how):
        super().__init__()
        self.base, self.config, self.how = base, base.config, how

    def forward(self, input_ids, attention_mask=None, past_key_values=None):
        if self.how == "fails":
            raise ValueError("no cache, please")
        if self.how == "does not keep":
            return self.base(input_ids=input_ids)
        self.base(input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values)
        return self.base(input_ids=input_ids)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("fails", r"layers of Odd: it fails with a cache \(no cache, please\)"),
        ("does not keep", "layers of Odd: it does not keep them in its cache"),
        ("does not attend", "layers of Odd: it does not attend to its cache"),
    ],
)
def test_a_base_that_ignores_its_cache_is_found_out(tiny, how, sentence):
    assert re.search(sentence, str(refusal(Odd(tiny.model, how))))
    assert refusal(tiny.model) is None


def saved(tiny, folder, **values):
    save_adapter({"prefix": prefixes(tiny)["prefix"][0]}, FORM, folder)
    plain = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **values}))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_virtual_tokens": 6}, r"says `num_virtual_tokens` 6, found 'prompt_embeddings' of shape \(5, 128\)"),
        ({"num_layers": 3}, "says `num_layers` 3, .* which does not go with 128 numbers a position"),
        ({"num_layers": None}, "says `num_layers` None"),
        ({"num_attention_heads": 5}, "`num_attention_heads` 5 and `token_dim` 32, which does not go"),
        (
            {"num_transformer_submodules": 3},
            "submodules` 3; this kind of adapter is read where it is 1 or 2",
        ),
    ],
)
def test_prefixes_that_cannot_be_meant_are_refused(tiny, tmp_path, values, sentence):
    saved(tiny, tmp_path, **values)
    with pytest.raises(ModelError, match=sentence):
        load_adapter(tmp_path)


def test_foreign_and_damaged_weights_are_named(tiny, tmp_path):
    saved(tiny, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors cannot be read"):
        load_adapter(tmp_path)
    save_file({"transform.0.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(ModelError, match=r"holds 'transform.0.weight', which is no soft prompt"):
        load_adapter(tmp_path)


def test_a_prefix_of_another_base_is_refused(tiny):
    with pytest.raises(ModelError, match="for 2 layers of 2 heads and 32 numbers, found one for 4 layers of 2 heads"):
        PrefixForm(layers=4, heads=2).stack(tiny.model, {"prefix": torch.zeros(LENGTH, 256)})
    with pytest.raises(ModelError, match="found one for 2 layers of 4 heads"):
        PrefixForm(layers=2, heads=4).stack(tiny.model, {"prefix": torch.zeros(LENGTH, 128)})
    with pytest.raises(ModelError, match="64 virtual tokens, and this base has 64 positions"):
        FORM.stack(tiny.model, {"prefix": torch.zeros(64, 128)})


# --- the rung


def context_of(base, seed=11):
    words = ["card", "stolen", "payment", "refund", "order", "account"]
    rows = tuple(
        Example(id=str(i), fields={"text": f"{words[i % 6]} {words[i % 5]}"}, target="abc"[i % 3]) for i in range(24)
    )
    return Context(
        task=Task(data=DataConfig(train="x"), dtype="float32", truncation="keep_start"),
        labels=("a", "b", "c"),
        base=base,
        folds=(Fold(train=rows, race=rows[:9]),),
        features=lambda examples: base.features([example.texts for example in examples], "keep_start"),
        work=10**9,
        seed=seed,
        train_tokens=100,
        race_tokens=40,
    )


def test_a_prefix_starts_at_training_rows_or_at_noise(tiny):
    context = context_of(tiny)
    tokens = start_tokens(context, 8)
    assert len(tokens) >= 8
    assert set(tokens) <= {token for row in context.fold.train for token in words_of(tiny, row.texts[0])}
    assert tokens == start_tokens(context, 8)
    assert any(start_tokens(context_of(tiny, seed), 8) != tokens for seed in range(3))
    configs = [PrefixTuningConfig(start=start, length=8) for start in ("text", "random")]
    assert configs[0].structure == configs[1].structure
    start = PrefixTuning().stack(context, configs, tiny.model).start()["prefix"]
    assert torch.equal(start[0], keys_and_values(tiny.model, torch.tensor([tokens[:8]])))
    assert float(start[1].std()) == pytest.approx(0.02, rel=0.2)


def test_the_prefix_learns_at_the_stated_rate_and_the_head_at_its_share(tiny):
    config = PrefixTuningConfig(learning_rate=0.02, head_share=0.5)
    stack = PrefixTuning().stack(context_of(tiny), [config], tiny.model)
    assert config.settings.learning_rate == pytest.approx(0.01)
    assert config.settings.learning_rate * stack.rate("prefix") == pytest.approx(0.02)
    assert not stack.decays("prefix")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"length": 0}, "prefix_tuning: `length` must be 1 or more, got 0. For no virtual token use 'linear_probe'."),
        ({"start": "noise"}, "prefix_tuning: `start` is 'text' or 'random', got 'noise'."),
        ({"head_share": 2.0}, "prefix_tuning: `head_share` must lie between 0 (not included) and 1, got 2.0."),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as caught:
        PrefixTuningConfig(**values)
    assert sentence in str(caught.value)
