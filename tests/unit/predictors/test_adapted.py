"""The adapted predictor: saved and loaded it answers the same, beside others on one base, in any company."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
from tunewise.adapters.stack import Member
from tunewise.errors import BundleError
from tunewise.predictors.adapted import AdaptedPredictor
from tunewise.predictors.base import Predictor
from tunewise.types import Example

TEXTS = ["the card was stolen", "dull", "how do I reset the password of my account", "dull", ""]
EXAMPLES = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(TEXTS)]


def predictor_of(base, kind, seed=0, unit_length=False):
    rng = torch.Generator().manual_seed(seed)
    adapter = None
    if kind == "full":
        tensors = {
            name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=rng)
            for name, parameter in base.model.named_parameters()
        }
    else:
        adapter = LoraForm(rank=2, alpha=8.0)
        start = LoraStack(base.model, [Member()], rank=2, targets=target_layers(base.model)).start()
        tensors = {name: 0.2 * torch.randn(value.shape[1:], generator=rng) for name, value in start.items()}
    return AdaptedPredictor(
        base=base,
        labels=("a", "b", "c"),
        policy="refuse",
        weight_LH=torch.randn(3, 32, generator=rng).numpy(),
        bias_L=np.array([0.1, 0.0, -0.1]),
        tensors=tensors,
        adapter=adapter,
        unit_length=unit_length,
    )


def scores(predictor, examples=EXAMPLES):
    return np.array([list(prediction.scores.values()) for prediction in predictor.predict(examples)])


KINDS = pytest.mark.parametrize("kind", ["adapter", "full"])


@KINDS
@pytest.mark.parametrize("unit_length", [False, True])
def test_saved_and_loaded_it_answers_the_same(tiny, tmp_path, kind, unit_length):
    predictor = predictor_of(tiny, kind, unit_length=unit_length)
    assert isinstance(predictor, Predictor)
    predictor.save(tmp_path)
    loaded = AdaptedPredictor.load(tmp_path, lambda name: {tiny.info.name: tiny}[name])
    np.testing.assert_array_equal(scores(loaded), scores(predictor))
    assert loaded.labels == predictor.labels
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    own = (
        {"model.safetensors"}
        if kind == "full"
        else {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    )
    assert files == {"adapted.json", "head.safetensors", *own}


@KINDS
def test_the_adapter_shows(tiny, kind):
    """Another seed moves the vectors, not only the head."""
    first = predictor_of(tiny, kind)
    texts = [example.texts for example in EXAMPLES]
    plain = tiny.features(texts, "keep_start")
    assert np.abs(first.encoder.features(texts, "keep_start") - plain).max() > 1e-2


def test_predictors_on_one_base_do_not_see_each_other(tiny):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    plain = tiny.features([("dull",)], "keep_start")
    alone = [scores(predictor_of(tiny, kind, seed)) for kind, seed in (("adapter", 0), ("adapter", 1), ("full", 2))]
    together = [predictor_of(tiny, kind, seed) for kind, seed in (("adapter", 0), ("adapter", 1), ("full", 2))]
    for _ in range(2):
        for predictor, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(scores(predictor), expected)
    np.testing.assert_array_equal(tiny.features([("dull",)], "keep_start"), plain)
    assert all(torch.equal(tiny.model.state_dict()[name], tensor) for name, tensor in before.items())


@KINDS
def test_an_answer_does_not_depend_on_company(tiny, kind):
    predictor = predictor_of(tiny, kind)
    together = scores(predictor)
    for i, example in enumerate(EXAMPLES):
        np.testing.assert_allclose(scores(predictor, [example])[0], together[i], atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-12)
    assert predictor.predict([]) == []


def test_an_adapter_without_effect_is_the_frozen_base(tiny):
    predictor = predictor_of(tiny, "adapter")
    silent = {name: torch.zeros_like(tensor) for name, tensor in predictor.tensors.items()}
    again = AdaptedPredictor(
        base=tiny,
        labels=predictor.labels,
        policy="refuse",
        weight_LH=predictor.weight_LH,
        bias_L=predictor.bias_L,
        tensors=silent,
        adapter=predictor.adapter,
        unit_length=False,
    )
    import dataclasses

    info = tiny.info
    try:
        tiny.info = dataclasses.replace(info, normalize=False)
        feature_EH = tiny.features([example.texts for example in EXAMPLES], "keep_start")
    finally:
        tiny.info = info
    logits_EL = feature_EH @ predictor.weight_LH.T + predictor.bias_L
    share_EL = np.exp(logits_EL) / np.exp(logits_EL).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores(again), share_EL, atol=1e-5)


@KINDS
def test_a_folder_that_is_damaged_is_refused(tiny, tmp_path, kind):
    predictor_of(tiny, kind).save(tmp_path)
    weights = tmp_path / ("model.safetensors" if kind == "full" else "adapter/adapter_model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(BundleError, match=r"^adapted: "):
        AdaptedPredictor.load(tmp_path, lambda name: tiny)
    weights.write_bytes(whole)
    stored = load_file(weights)
    name = next(name for name in stored if stored[name].dim() == 2)
    stored[name] = torch.zeros(3, 5)
    save_file(stored, weights)
    with pytest.raises(BundleError, match=r"should have"):
        AdaptedPredictor.load(tmp_path, lambda name: tiny)
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(BundleError, match=r"head.safetensors: cannot be read"):
        AdaptedPredictor.load(tmp_path, lambda name: tiny)
