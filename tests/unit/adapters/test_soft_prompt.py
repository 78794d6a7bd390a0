"""Soft prompts: the same numbers as PEFT, members that do not see each other, positions that are really free."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tunewise.adapters.files import load_adapter, save_adapter
from tunewise.adapters.soft_prompt import SoftPromptForm, SoftPromptStack, TextMember
from tunewise.adapters.stack import Member, Pass
from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError, ModelError
from tunewise.methods.base import Context, Fold
from tunewise.methods.prompt_tuning import PromptTuning, PromptTuningConfig, start_tokens, words_of
from tunewise.models.encoder import Encoder, collate
from tunewise.models.load import load_base
from tunewise.models.packed import packed
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder
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
LABELS = ("card_arrival", "lostCard", "refund")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}

    def base(architecture):
        if architecture not in made:
            folder = tiny_encoder(tmp_path_factory.mktemp("bases"), architecture=architecture)
            made[architecture] = load_base(str(folder), device="cpu", dtype="float32")
        return made[architecture]

    return base


@pytest.fixture(params=ARCHITECTURES)
def encoder(request, bases, one_thread):
    return bases(request.param)


def batch_of(encoder, texts=TEXTS):
    tokens = encoder.encode(texts, "keep_start")
    return collate(tokens, range(len(texts)), pad_id=encoder.pad_id, device=encoder.device)


def inputs_of(batch, members=1):
    plain = {"input_ids": batch.input_ids_ST, "attention_mask": batch.attention_mask_ST}
    return {name: tensor.repeat(members, 1) for name, tensor in plain.items()}


def prompts(encoder, members=1, length=LENGTH):
    stack = SoftPromptStack(encoder.model, [Member()] * members, length=length)
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(tensor.shape, generator=rng) for name, tensor in stack.start().items()}


def attached(encoder, tensors, active=None):
    """The base with these members [P, ...] in front."""
    tree = shared_tree(encoder.model)
    members, length = tensors["prompt"].shape[:2]
    stack = SoftPromptStack(tree, [Member()] * members, length=length)
    stack.bind(tensors)
    stack.now = Pass(active=tuple(range(members)) if active is None else active, sequences=0, positions=0)
    return stack.attach(tree)


def only(tensors, p):
    return {name: tensor[p : p + 1] for name, tensor in tensors.items()}


def hidden(model, inputs):
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def theirs(encoder, tensors):
    import peft
    import transformers

    config = peft.PromptTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=LENGTH,
        token_dim=tensors["prompt"].shape[-1],
        num_attention_heads=2,
    )
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(encoder.info.path), config).eval()
    model.prompt_encoder["default"].embedding.weight.data = tensors["prompt"][0].clone()
    return model


def largest(first, second):
    return float((first - second).abs().max())


def test_hidden_states_of_the_text_equal_those_of_peft(encoder):
    tensors, batch = prompts(encoder), batch_of(encoder)
    inputs = inputs_of(batch)
    assert int(inputs["attention_mask"].min()) == 0, "some text must be padded"
    ours = hidden(attached(encoder, tensors), inputs)
    expected = hidden(theirs(encoder, tensors), inputs)[:, LENGTH:]
    seen = inputs["attention_mask"].bool()
    assert largest(ours[seen], expected[seen]) < 1e-5
    assert largest(ours[seen], hidden(encoder.model, inputs)[seen]) > 1e-2, "the prompt must show"


def test_token_types_are_dropped_as_in_peft(tiny):
    model, inputs = attached(tiny, prompts(tiny)), inputs_of(batch_of(tiny))
    types = torch.ones_like(inputs["input_ids"])
    assert torch.equal(hidden(model, {**inputs, "token_type_ids": types}), hidden(model, inputs))
    assert largest(hidden(tiny.model, {**inputs, "token_type_ids": types}), hidden(tiny.model, inputs)) > 1e-3


def test_three_members_answer_as_each_does_alone(encoder):
    tensors, batch = prompts(encoder, 3), batch_of(encoder)
    together = hidden(attached(encoder, tensors), inputs_of(batch, 3)).view(3, len(TEXTS), -1)
    for p in range(3):
        alone = hidden(attached(encoder, only(tensors, p)), inputs_of(batch)).flatten(1)
        assert largest(together[p], alone) < 1e-5
        assert largest(together[p], together[p - 1]) > 1e-2
    some = hidden(attached(encoder, tensors, active=(2, 0)), inputs_of(batch, 2)).view(2, len(TEXTS), -1)
    assert largest(some, together[[2, 0]]) < 1e-5


def test_gradients_reach_every_member_and_only_its_own_rows(encoder):
    tensors, batch = prompts(encoder, 3), batch_of(encoder)
    leaf = tensors["prompt"].requires_grad_()
    out = attached(encoder, tensors)(**inputs_of(batch, 3)).last_hidden_state.view(3, len(TEXTS), -1)
    target = torch.randn(out[0].shape, generator=torch.Generator().manual_seed(2))
    for p in range(3):
        (gradient,) = torch.autograd.grad((out[p] * target).sum(), leaf, retain_graph=True)
        assert (gradient[p].abs().amax(dim=-1) > 1e-6).all(), "every soft token must learn"
        assert not gradient[[q for q in range(3) if q != p]].any()


def test_padding_and_neighbours_change_nothing(encoder):
    tensors = prompts(encoder)
    together = hidden(attached(encoder, tensors), inputs_of(batch_of(encoder)))
    for i, text in enumerate(TEXTS):
        alone = hidden(attached(encoder, tensors), inputs_of(batch_of(encoder, [text])))[0]
        assert largest(together[i, : len(alone)], alone) < 1e-5


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="layers are packed with oneDNN alone")
def test_packed_layers_answer_the_same(encoder):
    model, inputs = attached(encoder, prompts(encoder)), inputs_of(batch_of(encoder))
    with torch.inference_mode():
        fast = packed(model, 64, lambda each: each(**inputs).last_hidden_state)
        assert fast is not model
        seen = inputs["attention_mask"].bool()
        assert largest(fast(**inputs).last_hidden_state[seen], hidden(model, inputs)[seen]) < 1e-4


def test_peft_loads_what_is_saved_here(encoder, tmp_path):
    import peft
    import transformers

    tensors, inputs = prompts(encoder), inputs_of(batch_of(encoder))
    save_adapter({"prompt": tensors["prompt"][0]}, SoftPromptForm(layers=2, heads=2), tmp_path)
    model = transformers.AutoModel.from_pretrained(encoder.info.path)
    expected = hidden(peft.PeftModel.from_pretrained(model, tmp_path).eval(), inputs)[:, LENGTH:]
    seen = inputs["attention_mask"].bool()
    assert largest(hidden(attached(encoder, tensors), inputs)[seen], expected[seen]) < 1e-5


def test_what_peft_saves_loads_here(encoder, tmp_path):
    tensors, inputs = prompts(encoder), inputs_of(batch_of(encoder))
    model = theirs(encoder, tensors)
    model.save_pretrained(tmp_path)
    loaded, form = load_adapter(tmp_path)
    tree = shared_tree(encoder.model)
    stack = form.stack(tree, loaded)
    stack.bind({name: tensor[None] for name, tensor in loaded.items()})
    assert isinstance(stack, SoftPromptStack)
    seen = inputs["attention_mask"].bool()
    assert largest(hidden(stack.attach(tree), inputs)[seen], hidden(model, inputs)[:, LENGTH:][seen]) < 1e-5


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_a_text_at_the_limit_is_cut_by_the_prompt_and_answered(bases, architecture):
    encoder = bases(architecture)
    predictor = AdaptedPredictor(
        base=encoder,
        labels=LABELS,
        policy="keep_start",
        weight_LH=np.ones((3, encoder.info.hidden_size)),
        bias_L=np.zeros(3),
        tensors={"prompt": prompts(encoder)["prompt"][0]},
        adapter=SoftPromptForm(),
    )
    long = Example(id="0", fields={"text": "card " * 500})
    limit = encoder.info.max_tokens
    assert len(predictor.encoder.encode([long.texts], "keep_start").ids[0]) == limit - LENGTH
    assert len(encoder.encode([long.texts], "keep_start").ids[0]) == limit
    assert predictor.predict([long])[0].text in LABELS


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
            return SoftPromptStack(model, chosen, length=LENGTH, rate=30.0)

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
        moved = (alone.export(0)["prompt"] - together.population.export(start[p])["prompt"]).abs().amax(dim=-1)
        assert (moved > 1e-3).all(), "every soft token must have learnt"


def test_the_base_and_its_table_stay_as_they_were(loop, tiny):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    trained = loop([0, 1])
    trained.advance(trained.horizon)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.model.state_dict().items())
    assert trained.population.encoder.model.config.hidden_size == 32
    assert trained.population.trainable_parameters(0) == LENGTH * 32 + 3 * 33


def test_a_prompt_starts_at_its_text_cycled_or_cut_or_at_noise_of_its_seed(tiny):
    table = tiny.model.get_input_embeddings().weight
    members = [TextMember(text=lambda: [7, 9]), TextMember(text=lambda: list(range(40))), Member(seed=4)]
    start = SoftPromptStack(tiny.model, members, length=LENGTH).start()["prompt"]
    assert torch.equal(start[0], table[[7, 9, 7, 9, 7]])
    assert torch.equal(start[1], table[:5])
    alone = SoftPromptStack(tiny.model, [Member(seed=4)], length=LENGTH).start()["prompt"]
    assert torch.equal(start[2], alone[0])
    assert float(start[2].std()) == pytest.approx(float(table.std()), rel=0.3)
    other = SoftPromptStack(tiny.model, [Member(seed=5)], length=LENGTH).start()["prompt"]
    assert not torch.equal(other, alone)


def saved(tiny, folder, **values):
    save_adapter({"prompt": prompts(tiny)["prompt"][0]}, SoftPromptForm(), folder)
    plain = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **values}))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_virtual_tokens": 6}, r"says `num_virtual_tokens` 6, found 'prompt_embeddings' of shape \(5, 32\)"),
        ({"num_virtual_tokens": None}, r"says `num_virtual_tokens` None"),
        ({"token_dim": 33}, "says `token_dim` 33, found 32 numbers a token. Save the adapter again."),
        (
            {"num_transformer_submodules": 2},
            r"submodules` 2; this kind of adapter is read where it is 1\.",
        ),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(tiny, tmp_path, values, sentence):
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
    prompt = torch.zeros(LENGTH, 32)
    save_file({"prompt_embeddings": prompt, "base_model.model.classifier.weight": prompt.clone()}, weights)
    with pytest.raises(ModelError, match=r"holds 'base_model.model.classifier.weight', which is no soft prompt"):
        load_adapter(tmp_path)


def test_a_prompt_of_another_base_is_refused(tiny):
    wide = {"prompt": torch.zeros(LENGTH, 48)}
    stack = SoftPromptForm().stack(tiny.model, wide)
    with pytest.raises(ModelError, match=r"'prompt' should have shape \(1, 5, 32\), found \(1, 5, 48\)"):
        stack.bind({"prompt": wide["prompt"][None]})
    with pytest.raises(ModelError, match="64 virtual tokens, and this base has 64 positions: none is left"):
        SoftPromptForm().stack(tiny.model, {"prompt": torch.zeros(64, 32)})
    with pytest.raises(ModelError, match="prompt_tuning: Linear has no table of token embeddings"):
        SoftPromptStack(torch.nn.Linear(2, 2), [Member()], length=4)


# --- the rung


@pytest.fixture
def context(tiny):
    return context_of(tiny)


def context_of(base, seed=11, **options):
    words = ["card", "stolen", "payment", "refund", "order", "account"]
    rows = tuple(
        Example(id=str(i), fields={"text": f"{words[i % 6]} {words[i % 5]}"}, target=LABELS[i % 3]) for i in range(24)
    )
    return Context(
        task=Task(name="card-requests", data=DataConfig(train="x"), dtype="float32", truncation="keep_start"),
        labels=LABELS,
        base=base,
        folds=(Fold(train=rows, race=rows[:9]),),
        features=lambda examples: base.features([example.texts for example in examples], "keep_start"),
        work=10**9,
        seed=seed,
        train_tokens=100,
        race_tokens=40,
        **options,
    )


def test_a_prompt_starts_where_its_candidate_says(context):
    base = context.base
    seen = {token for row in context.fold.train for token in words_of(base, row.texts[0])}
    vocabulary = start_tokens(context, "vocabulary", 4)
    assert len(set(vocabulary)) == 4
    assert set(vocabulary) <= seen
    assert vocabulary == start_tokens(context, "vocabulary", 4)
    assert any(start_tokens(context_of(base, seed), "vocabulary", 4) != vocabulary for seed in range(3))
    labels = start_tokens(context, "labels", 4)
    assert labels == [token for text in ("card arrival", "lost card", "refund") for token in words_of(base, text)]
    said = words_of(base, "card requests: which of card arrival, lost card, refund is this text?")
    assert start_tokens(context, "instruction", 4) == said
    assert not {0, 2, 3} & {*vocabulary, *labels, *said}, "padding, start and end are no words"


def test_candidates_with_different_starts_share_a_stack(context):
    configs = [PromptTuningConfig(start=start, length=8) for start in ("vocabulary", "labels", "instruction")]
    assert len({config.structure for config in configs}) == 1
    start = PromptTuning().stack(context, configs, context.base.model).start()["prompt"]
    table = context.base.model.get_input_embeddings().weight
    for prompt_ME, config in zip(start, configs, strict=True):
        assert torch.equal(prompt_ME, table[np.resize(start_tokens(context, config.start, 8), 8)])


def test_the_prompt_learns_at_the_stated_rate_and_the_head_at_its_share(context):
    config = PromptTuningConfig(learning_rate=0.2, head_share=0.05, weight_decay=0.1)
    stack = PromptTuning().stack(context, [config], context.base.model)
    assert config.settings.learning_rate == pytest.approx(0.01)
    assert config.settings.learning_rate * stack.rate("prompt") == pytest.approx(0.2)
    assert config.settings.weight_decay == 0.1
    assert not stack.decays("prompt")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"length": 0}, "prompt_tuning: `length` must be 1 or more, got 0. For no virtual token use 'linear_probe'."),
        ({"start": "noise"}, "prompt_tuning: `start` is 'vocabulary', 'labels' or 'instruction', got 'noise'."),
        ({"head_share": 0.0}, "prompt_tuning: `head_share` must lie between 0 (not included) and 1, got 0.0."),
        ({"learning_rate": 2.0}, "prompt_tuning: `learning_rate` must be at most 1, got 2.0."),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, sentence):
    with pytest.raises(ConfigError) as caught:
        PromptTuningConfig(**values)
    assert sentence in str(caught.value)


class Space:
    """Proposes these lengths."""

    def ask(self, parameters, n):
        assert list(parameters)[:2] == ["learning_rate", "start"]
        assert list(parameters)[-1] == "length"
        return [{"length": length} for length in (8, 24, 32)]


def test_a_prompt_leaves_at_least_half_of_the_positions_to_the_text(tiny):
    small = copy.copy(tiny)
    small.info = dataclasses.replace(tiny.info, max_tokens=40)
    context, rung = context_of(small), PromptTuning()
    assert rung.skip(context) is None
    assert [c.length for c in rung.propose(context, Space(), np.random.default_rng(0), 3)] == [8]
    with pytest.raises(
        ConfigError, match=r"24 virtual tokens leave 16 of the 40 positions of .* `length` to 20 or less"
    ):
        rung.open(context, [PromptTuningConfig(length=24)])
    small.info = dataclasses.replace(tiny.info, max_tokens=20)
    assert "prompt_tuning: 16 virtual tokens leave 4 of the 20 positions" in str(rung.skip(context))
