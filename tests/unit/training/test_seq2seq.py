"""Encoder-decoders that learn to write: loss, gradients and adapters are those of transformers and PEFT."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.adapters.files import Use, save_adapter
from tunewise.adapters.ia3 import IA3Form, IA3Stack, rescaled_layers
from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
from tunewise.adapters.soft_prompt import SoftPromptForm, SoftPromptStack
from tunewise.adapters.stack import Member
from tunewise.errors import ModelError
from tunewise.models.answers import scorer_of, writer_of
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.prefix_tree import Request
from tunewise.models.seq2seq import Seq2Seq
from tunewise.models.tiny_seq2seq import ARCHITECTURES, tiny_seq2seq
from tunewise.models.tree import shared_tree
from tunewise.predictors.adapted import with_adapter
from tunewise.training.adapted import StackedPopulation
from tunewise.training.frozen import blocks_of
from tunewise.training.loop import Loop, Plan, Settings
from tunewise.training.texts import Texts, Writing
from tunewise.training.whole import FullPopulation

# PEFT asks transformers for a property under its old name; missing or unexpected weights still are errors
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

PLAN = Plan(epochs=2, batch_size=5, seed=3, evaluations=4)
SETTINGS = [Settings(learning_rate=10 ** (-2 - p / 4), label_smoothing=0.1 * (p % 2)) for p in range(3)]
MEMBERS = [Member(scale=0.5 + p, seed=p, dropout=0.1 * p) for p in range(3)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request, tmp_path_factory, one_thread) -> Seq2Seq:
    folder = tiny_seq2seq(tmp_path_factory.mktemp("seq2seq") / request.param, architecture=request.param)
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Seq2Seq)
    return loaded.for_texts()


def texts(base: Seq2Seq, count: int, seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    return Texts(
        base,
        tuple(
            Request(rng.integers(5, 500, rng.integers(1, 20)), np.append(rng.integers(5, 500, rng.integers(1, 9)), 2))
            for _ in range(count)
        ),
    )


def wide(base: Seq2Seq) -> Seq2Seq:
    return base.over(shared_tree(base.whole, torch.float64))


def full(base: Seq2Seq, rows: Texts, plan: Plan = PLAN) -> Loop:
    used = np.unique(np.concatenate(rows.tokens.ids))
    population = FullPopulation(base, None, used_tokens=used, dtype=base.dtype, seed=5)
    return Loop(population, Writing(rows, rows), plan, [Settings(learning_rate=1e-2)])


def lora(base: Seq2Seq, members: list[int], rows: Texts, plan: Plan = PLAN) -> Loop:
    chosen, targets = [MEMBERS[p] for p in members], target_layers(base.model)
    population = StackedPopulation(base, lambda tree: LoraStack(tree, chosen, rank=2, targets=targets))
    return Loop(population, Writing(rows, rows), plan, [SETTINGS[p] for p in members])


def of_transformers(whole, base: Seq2Seq, rows: Texts) -> torch.Tensor:
    """The library's own mean loss; a token that is forced to come first is read and not learnt."""
    lead = len(base.lead_ids) - 1
    width = max(len(r.context) for r in rows.requests)
    written = max(len(r.continuation) for r in rows.requests) + lead
    ids = torch.full((len(rows.requests), width), base.pad_id)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(rows.requests), written), -100)
    read = torch.full((len(rows.requests), written), base.pad_id)
    for i, request in enumerate(rows.requests):
        ids[i, : len(request.context)] = torch.from_numpy(request.context)
        mask[i, : len(request.context)] = 1
        labels[i, lead : lead + len(request.continuation)] = torch.from_numpy(request.continuation)
        said = torch.tensor([*base.lead_ids, *request.continuation[:-1]])
        read[i, : len(said)] = said
    return whole(input_ids=ids, attention_mask=mask, decoder_input_ids=read, labels=labels).loss


def test_loss_and_gradients_of_every_weight_are_those_of_transformers(base: Seq2Seq) -> None:
    rows = texts(base, 6, 2)
    loop = full(base, rows)
    (loss,) = loop._gradients(np.arange(6), [0])
    whole = copy.deepcopy(base.whole).requires_grad_()
    expected = of_transformers(whole, base, rows)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    ours = loop.population.export(loop.population.flat.grads_PN[0])
    theirs = dict(whole.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        wanted = theirs[name].grad
        assert float((gradient - wanted).abs().max()) < 2e-5 * max(1.0, float(wanted.abs().max())), name


def test_micro_batches_of_any_size_take_the_same_steps_with_dropout_too(base: Seq2Seq) -> None:
    own = wide(base)
    if base.info.architecture == "t5":
        own = base  # its norms round to float32 whatever they are given
    rows = texts(own, 11, 0)
    small = dataclasses.replace(Plan(epochs=1, batch_size=7, seed=3), tokens_per_pass=40)
    whole = dataclasses.replace(small, tokens_per_pass=100_000)
    one, many = lora(own, [0, 2], rows, whole), lora(own, [0, 2], rows, small)
    one.advance(one.horizon)
    many.advance(many.horizon)
    gap = float((one.population.flat.values_PN - many.population.flat.values_PN).abs().max())
    assert gap < (1e-10 if own is not base else 2e-3)


def test_a_member_of_three_ends_as_the_same_candidate_alone_and_has_learnt(base: Seq2Seq) -> None:
    rows = texts(base, 12, 0)
    together = lora(base, [0, 1, 2], rows)
    start_PN = together.population.flat.values_PN.clone()
    together.advance(together.horizon)
    for p in range(3):
        alone = lora(base, [p], rows)
        alone.advance(alone.horizon)
        np.testing.assert_allclose(alone.curve(0).dev_losses, together.curve(p).dev_losses, rtol=1e-3)
        assert together.curve(p).dev_losses[-1] < together.curve(p).dev_losses[0]
        moved_N = (together.population.flat.values_PN[p] - start_PN[p]).abs()
        for part in ("encoder.", "decoder."):
            names = [slot for slot in together.population.flat.slots if slot.name.startswith(part)]
            assert names
            assert all(float(moved_N[slot.start : slot.stop].max()) > 1e-4 for slot in names)


def changed(stack) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {name: v[0] + torch.randn(v.shape[1:], generator=rng) * 0.1 for name, v in stack.start().items()}


@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt_tuning"])
def test_peft_loads_what_is_saved_and_gives_the_same_logits_and_the_same_text(
    base: Seq2Seq, tmp_path: Path, kind: str
) -> None:
    import peft
    import transformers

    model = base.model
    if kind == "lora":
        stack = LoraStack(model, [Member()], rank=4, targets=target_layers(model))
        form = LoraForm(rank=4, alpha=8.0)
    elif kind == "ia3":
        stack, form = IA3Stack(model, [Member()], targets=rescaled_layers(model)), IA3Form()
    else:
        stack, form = SoftPromptStack(model, [Member()], length=5), SoftPromptForm(layers=2, heads=4)
    tensors = changed(stack)
    save_adapter(tensors, form, tmp_path, use=Use(base.task_type, base.above))
    ours = with_adapter(base, tensors, form)
    whole = transformers.AutoModelForSeq2SeqLM.from_pretrained(base.info.path)
    theirs = peft.PeftModel.from_pretrained(whole, tmp_path).eval()
    rows = texts(base, 3, 5)
    lesson = ours.lesson(rows.requests)
    with torch.no_grad():
        logits = ours.read(ours.forward(lesson.batch)[lesson.row_N, lesson.place_N])
        expected = theirs(
            input_ids=lesson.batch.input_ids_ST,
            attention_mask=lesson.batch.attention_mask_ST,
            decoder_input_ids=lesson.batch.answer_ids_SN,
        ).logits[lesson.row_N, lesson.place_N]
        plain = base.read(base.forward(lesson.batch)[lesson.row_N, lesson.place_N])
    assert float((logits - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((logits - plain).abs().max()) > 1e-3
    # what is trained is what scores and writes
    for request, found in zip(rows.requests, scorer_of(ours).score(rows.requests), strict=True):
        own = np.array([i for i, row in enumerate(lesson.row_N) if rows.requests[row] is request])
        log_V = torch.log_softmax(expected[own].double(), -1)
        wanted = log_V.gather(1, torch.from_numpy(request.continuation)[:, None])[:, 0]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    prompt = rows.requests[0].context
    (answer,) = writer_of(ours).write([prompt], Decoding(max_new_tokens=8))
    length = 8 + len(base.lead_ids) - 1
    written = theirs.generate(
        input_ids=torch.from_numpy(prompt)[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=length,
        do_sample=False,
    )
    told = written[0].tolist()[len(base.lead_ids) :]
    assert list(answer.ids) == told[: next((i for i, t in enumerate(told) if t in base.end_ids), len(told))]


def test_where_texts_are_learnt_decoder_and_encoder_are_trained_and_features_stay(base: Seq2Seq) -> None:
    loaded = load_base(base.info.path, device="cpu", dtype="float32")
    assert loaded.for_texts() is loaded.for_texts() is loaded.for_texts().for_texts()
    paths = target_layers(base.model)
    assert {path.split(".")[0] for path in paths} == {"encoder", "decoder"}
    assert {path.split(".")[0] for path in target_layers(loaded.model)} == {"encoder"}
    rows = [("the card was stolen",), ("never dull",)]
    np.testing.assert_allclose(base.features(rows, "keep_start"), loaded.features(rows, "keep_start"), atol=1e-6)
    with pytest.raises(ModelError, match="its blocks are not one list"):
        blocks_of(base.model)
