"""Prefixes in the decoder of an encoder-decoder: the numbers and texts of PEFT, members that do not see each other."""

import copy
import json

import numpy as np
import pytest
import torch

from tunewise.adapters.files import Use, load_adapter, save_adapter
from tunewise.adapters.prefix import PrefixForm, PrefixStack, cache_dimensions, doubled, keys_and_values, refusal
from tunewise.adapters.stack import Member
from tunewise.errors import ModelError
from tunewise.models.answers import scorer_of, writer_of
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.prefix_tree import Request
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import ARCHITECTURES, tiny_seq2seq
from tunewise.models.tree import shared_tree
from tunewise.predictors.adapted import AdaptedPredictor, with_adapter
from tunewise.training.adapted import StackedPopulation
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.texts import Texts, Writing
from tunewise.types import Example

# PEFT asks transformers for a property under its old name; missing or unexpected weights still are errors
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LENGTH = 5
PROMPTS = [np.array([8, 9, 10, 2]), np.array([11, 12, 2]), np.array([30, 31, 32, 33, 34, 35, 2])]
ANSWERS = [np.array([21, 22, 23, 24]), np.array([25]), np.array([26, 27])]


@pytest.fixture(scope="module")
def bases(tmp_path_factory, one_thread):
    made = {}

    def base(architecture, layers=2):
        if (architecture, layers) not in made:
            folder = tiny_seq2seq(tmp_path_factory.mktemp("seq2seq"), architecture=architecture, layers=layers)
            loaded = load_base(str(folder), device="cpu", dtype="float32")
            assert isinstance(loaded, Seq2Seq)
            made[architecture, layers] = loaded.for_texts()
        return made[architecture, layers]

    return base


@pytest.fixture(params=ARCHITECTURES)
def base(request, bases):
    return bases(request.param)


def prefix_of(base, seed=1):
    """[M, W] far from where a prefix starts."""
    layers, _, hidden = cache_dimensions(base.model)
    rng = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(LENGTH, layers * 2 * hidden, generator=rng)


def saved(base, folder):
    """The tensors and the form of a prefix, and its folder as PEFT reads it."""
    layers, heads, _ = cache_dimensions(base.model)
    tensors = {"prefix": doubled(prefix_of(base), layers)}
    form = PrefixForm(layers=2 * layers, heads=heads, in_decoder=True)
    save_adapter(tensors, form, folder, use=Use(base.task_type, base.above))
    return tensors, form


def theirs(base, folder):
    import peft
    import transformers

    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(base.info.path)
    return peft.PeftModel.from_pretrained(plain, folder).eval()


def logits_of_peft(model, base, prompt, answer):
    ids = torch.from_numpy(prompt)[None]
    read = torch.tensor([[*base.lead_ids, *answer[:-1]]])
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=read).logits[0]
    return whole[len(base.lead_ids) - 1 :]


def logits(base, prompt, answer):
    with torch.no_grad():
        lesson = base.lesson([Request(prompt, answer)])
        hidden_SH = base.forward(lesson.batch)[lesson.row_N, lesson.place_N]
        return base.read(hidden_SH)


def largest(first, second):
    return float((first - second).abs().max())


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_loads_what_is_saved_here_with_the_same_logits(architecture, layers, bases, tmp_path):
    base = bases(architecture, layers)
    adapted, model = with_adapter(base, *saved(base, tmp_path)), theirs(base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["task_type"], config["num_transformer_submodules"]) == ("SEQ_2_SEQ_LM", 2)
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        expected, found = logits_of_peft(model, base, prompt, answer), logits(adapted, prompt, answer)
        assert largest(found, expected) < 1e-5 * max(1.0, float(expected.abs().max()))
        assert largest(found, logits(base, prompt, answer)) > 1e-2, "the prefix must show"


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_peft_saves_loads_here_with_the_same_logits(architecture, layers, bases, tmp_path):
    """By itself PEFT makes as many pairs of keys and values as there are layers, and reads them out of order."""
    import peft
    import transformers

    base = bases(architecture, layers)
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(base.info.path)
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=LENGTH)
    model = peft.get_peft_model(plain, config).eval()
    model.prompt_encoder["default"].embedding.weight.data = prefix_of(base)
    model.save_pretrained(tmp_path)
    tensors, form = load_adapter(tmp_path, Use(base.task_type, base.above))
    assert form == PrefixForm(layers=layers, heads=4, in_decoder=True)
    adapted = with_adapter(base, tensors, form)
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        expected = logits_of_peft(model, base, prompt, answer)
        assert largest(logits(adapted, prompt, answer), expected) < 1e-5 * max(1.0, float(expected.abs().max()))
    save_adapter(tensors, form, tmp_path / "again", use=Use(base.task_type, base.above))
    again, same = load_adapter(tmp_path / "again")
    assert same == form
    assert torch.equal(again["prefix"], tensors["prefix"])


@pytest.mark.parametrize("beams", [1, 3])
def test_it_writes_what_transformers_writes_with_pefts_model(base, beams, tmp_path):
    adapted, model = with_adapter(base, *saved(base, tmp_path)), theirs(base, tmp_path)
    written = writer_of(adapted).write(PROMPTS, Decoding(max_new_tokens=12, beams=beams))
    plain = writer_of(base).write(PROMPTS, Decoding(max_new_tokens=12, beams=beams))
    assert [w.ids for w in written] != [w.ids for w in plain]
    for prompt, answer in zip(PROMPTS, written, strict=True):
        ids = torch.from_numpy(prompt)[None]
        settings = {"length_penalty": 1.0, "early_stopping": True} if beams > 1 else {}
        whole = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12 + len(base.lead_ids) - 1,
            do_sample=False,
            num_beams=beams,
            **settings,
        )[0].tolist()[len(base.lead_ids) :]
        ended = next((i for i, token in enumerate(whole) if token in (*base.end_ids, base.pad_id)), len(whole))
        assert list(answer.ids) == whole[:ended]
        (alone,) = writer_of(adapted).write([prompt], Decoding(max_new_tokens=12, beams=beams))
        assert alone.ids == answer.ids, "it depends on the rows beside it"


def test_scored_answers_have_the_probability_that_pefts_model_gives_them(base, tmp_path):
    adapted, model = with_adapter(base, *saved(base, tmp_path)), theirs(base, tmp_path)
    requests = [Request(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
    for request, found_N in zip(requests, scorer_of(adapted).score(requests), strict=True):
        expected = torch.log_softmax(logits_of_peft(model, base, request.context, request.continuation).double(), -1)
        wanted = expected.gather(1, torch.from_numpy(request.continuation)[:, None])[:, 0]
        np.testing.assert_allclose(found_N, wanted.numpy(), atol=1e-4)


def test_a_head_reads_the_decoder_that_peft_gives_it(base, tmp_path):
    tensors, form = saved(base, tmp_path / "writes")
    hidden = base.info.hidden_size
    predictor = AdaptedPredictor(
        base=base.origin,
        labels=("a", "b"),
        policy="keep_start",
        weight_LH=np.eye(2, hidden),
        bias_L=np.zeros(2),
        tensors=tensors,
        adapter=form,
    )
    predictor.save(tmp_path)
    model, row = theirs(base, tmp_path / "adapter"), Example(id="0", fields={"text": "the card was stolen"})
    ids = torch.tensor([base.tokenizer("the card was stolen")["input_ids"]])
    start = torch.tensor([[*base.lead_ids, *base._before_ids]])
    with torch.no_grad():
        states = model(input_ids=ids, decoder_input_ids=start, output_hidden_states=True).decoder_hidden_states
    expected = torch.softmax(states[-1][0, -1, :2].double(), dim=-1)
    (answer,) = predictor.predict([row])
    assert list((answer.scores or {}).values()) == pytest.approx(expected.tolist(), abs=1e-5)


# --- members


def attached(base, tensors):
    """The base with these members [P, ...] in it, as a population holds them."""
    population = StackedPopulation(
        base, lambda tree: PrefixStack(tree, [Member()] * len(tensors["prefix"]), length=LENGTH)
    )
    population.stack.bind(tensors)
    return population


def test_a_member_computes_what_its_file_gives(base, tmp_path):
    batch = base.lesson([Request(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]).batch
    with torch.no_grad():
        member = attached(base, {"prefix": prefix_of(base)[None]}).hidden(batch, [0], None)
        assert largest(with_adapter(base, *saved(base, tmp_path)).forward(batch), member) < 1e-6


def test_three_members_answer_as_each_does_alone(base):
    tensors = {"prefix": torch.stack([prefix_of(base, seed) for seed in range(3)])}
    batch = base.lesson([Request(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]).batch
    with torch.no_grad():
        together = attached(base, tensors).hidden(batch, [0, 1, 2], None).unflatten(0, (3, -1))
        for p in range(3):
            own = {"prefix": tensors["prefix"][p : p + 1]}
            alone = attached(base, own).hidden(batch, [0], None)
            assert largest(together[p], alone) < 1e-5
            assert largest(together[p], together[p - 1]) > 1e-2
        some = attached(base, tensors).hidden(batch, [2, 0], None).unflatten(0, (2, -1))
    assert largest(some, together[[2, 0]]) < 1e-5


def test_gradients_reach_every_layer_of_every_member_and_only_its_own_rows(base):
    leaf = torch.stack([prefix_of(base, seed) for seed in range(3)]).requires_grad_()
    batch = base.lesson([Request(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]).batch
    out = attached(base, {"prefix": leaf}).hidden(batch, [0, 1, 2], None).unflatten(0, (3, -1))
    target = torch.randn(out[0].shape, generator=torch.Generator().manual_seed(2))
    for p in range(3):
        (gradient,) = torch.autograd.grad((out[p] * target).sum(), leaf, retain_graph=True)
        of_parts = gradient[p].view(LENGTH, 4, -1).abs().amax(dim=-1)
        assert (of_parts > 1e-9).all(), "every key and value of every layer must learn"
        assert not gradient[[q for q in range(3) if q != p]].any()


def test_a_member_of_three_ends_as_itself_alone(base):
    wide = base.over(shared_tree(base.whole, torch.float64))
    # the norms of T5 round to float32 whatever they are given
    own, tolerance = (base, 2e-3) if base.info.architecture == "t5" else (wide, 1e-10)
    rng = np.random.default_rng(0)
    requests = [
        Request(rng.integers(5, 500, rng.integers(1, 20)), np.append(rng.integers(5, 500, rng.integers(1, 9)), 2))
        for _ in range(11)
    ]
    rows, plan = Texts(own, tuple(requests)), Plan(epochs=2, batch_size=5, seed=3, evaluations=4)

    def loop(members):
        chosen = [Member(seed=p) for p in members]
        population = StackedPopulation(own, lambda tree: PrefixStack(tree, chosen, length=LENGTH))
        return Loop(population, Writing(rows, rows), plan, [Settings(learning_rate=1e-2 * (p + 1)) for p in members])

    together, before = loop([0, 1, 2]), copy.deepcopy(base.whole.state_dict())
    start_PN = together.population.flat.values_PN.clone()
    together.advance(together.horizon)
    for p in range(3):
        alone = loop([p])
        alone.advance(alone.horizon)
        assert largest(alone.population.flat.values_PN[0], together.population.flat.values_PN[p]) < tolerance
        moved = (together.population.flat.values_PN[p] - start_PN[p]).abs().view(LENGTH, 4, -1).amax(dim=-1)
        assert (moved > 1e-3).all(), "every layer must have learnt"
        assert alone.curve(0).dev_losses[-1] < alone.curve(0).dev_losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.whole.state_dict().items())


def test_a_prefix_that_starts_at_a_text_is_what_the_decoder_computes_for_it(base):
    ids_1M = torch.tensor([[7, 8, 9, 10, 11]])
    found = keys_and_values(base.model, ids_1M).view(LENGTH, 2, 2, -1)
    with torch.no_grad():
        output = base.whole(input_ids=ids_1M, decoder_input_ids=ids_1M, use_cache=True, output_hidden_states=True)
    for number, layer in enumerate(output.past_key_values.self_attention_cache.layers):
        assert largest(found[:, number, 0], layer.keys[0].transpose(0, 1).flatten(1)) < 1e-5
        assert largest(found[:, number, 1], layer.values[0].transpose(0, 1).flatten(1)) < 1e-5


def test_it_takes_its_positions_from_the_base(base, tmp_path):
    adapted = with_adapter(base, *saved(base, tmp_path))
    limit = base.info.max_tokens
    assert adapted.room(limit - LENGTH - len(base.lead_ids) - len(base._before_ids)) > 0
    assert adapted.room(limit - LENGTH) == 0
    longest = np.full(limit - LENGTH - len(base.lead_ids) + 1, 9)
    assert adapted.fits(Request(PROMPTS[0], longest))
    assert np.isfinite(scorer_of(adapted).score([Request(PROMPTS[0], longest)])[0]).all()


# --- what is refused


def test_a_base_with_a_decoder_is_not_refused_and_its_encoder_alone_is(base):
    assert refusal(base.model) is None
    assert "it takes no `past_key_values`" in str(refusal(base.origin.model))


def test_a_prefix_of_another_base_is_refused(base, tmp_path):
    tensors, form = saved(base, tmp_path)
    with pytest.raises(ModelError, match="for 2 layers of 4 heads and 32 numbers, found one for 3 layers of 4 heads"):
        PrefixForm(layers=3, heads=4, in_decoder=True).stack(base.model, {"prefix": torch.zeros(LENGTH, 3 * 64)})
    with pytest.raises(ModelError, match="made for a base of one transformer, and this base is an encoder with a deco"):
        PrefixForm(layers=2, heads=4).stack(base.model, {"prefix": prefix_of(base)})
    causal = load_base(str(tiny_causal(tmp_path / "causal", architecture="llama")), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="made for an encoder with a decoder, and this base is a base of one transf"):
        form.stack(causal.model, tensors)
