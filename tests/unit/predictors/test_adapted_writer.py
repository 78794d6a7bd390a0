"""A base that was trained to write: PEFT loads what is saved, and transformers writes with it what is written here."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewise.errors import BundleError
from tunewise.models.causal import Causal
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.predictors.bundle import check_probes, load_bundle, load_predictor, save_bundle
from tunewise.prompts.prompt import Prompt, joined
from tunewise.training.whole import FullPopulation
from tunewise.types import Example

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids are not supported:UserWarning")

TEXTS = ("the card was stolen", "my payment is pending again", "reset", "a dull film of no charm at all")
ROWS = tuple(Example(id=str(i), fields={"text": text}, target=text[::-1][:6]) for i, text in enumerate(TEXTS))
DECODING = Decoding(max_new_tokens=9)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory, one_thread: None):
    made: dict[str, Causal] = {}

    def base(architecture: str) -> Causal:
        if architecture not in made:
            folder = tiny_causal(tmp_path_factory.mktemp("writers") / architecture, architecture=architecture)
            loaded = load_base(str(folder), device="cpu", dtype="float32")
            assert isinstance(loaded, Causal)
            made[architecture] = loaded
        return made[architecture]

    return base


def writer(base: Causal, rung: str) -> AdaptedWriter:
    """A predictor with tensors of this rung that are far from where they start."""
    from tunewise.adapters.ia3 import IA3Form, IA3Stack, rescaled_layers
    from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
    from tunewise.adapters.prefix import PrefixForm, PrefixStack, cache_dimensions
    from tunewise.adapters.soft_prompt import SoftPromptForm, SoftPromptStack, dimensions
    from tunewise.adapters.stack import Member, turned

    model, adapter = base.model, None
    if rung == "full":
        population = FullPopulation(base, None, used_tokens=np.arange(base.vocabulary), dtype=torch.float32)
        start = population.export(population.flat.values_PN[0])
    else:
        layers, heads, _ = dimensions(model)
        own_layers, own_heads, _ = cache_dimensions(model)
        stack, adapter = {
            "lora": lambda: (
                LoraStack(model, [Member()], rank=3, targets=target_layers(model)),
                LoraForm(rank=3, alpha=6.0, turned=turned(model)),
            ),
            "ia3": lambda: (IA3Stack(model, [Member()], targets=rescaled_layers(model)), IA3Form(turned=turned(model))),
            "prompt_tuning": lambda: (
                SoftPromptStack(model, [Member()], length=5),
                SoftPromptForm(layers=layers, heads=heads),
            ),
            "prefix_tuning": lambda: (
                PrefixStack(model, [Member()], length=5),
                PrefixForm(layers=own_layers, heads=own_heads),
            ),
        }[rung]()
        start = {name: tensor[0] for name, tensor in stack.start().items()}
    rng = torch.Generator().manual_seed(1)
    wide = 0.3 if adapter is not None else 0.02
    tensors = {name: tensor + wide * torch.randn(tensor.shape, generator=rng) for name, tensor in start.items()}
    return AdaptedWriter(
        base=base, policy="keep_start", prompt=Prompt(), decoding=DECODING, tensors=tensors, adapter=adapter
    )


def prompt_ids(base: Causal, row: Example) -> torch.Tensor:
    (parts,) = Prompt().parts([row])
    return torch.from_numpy(base.prompt_ids([joined(parts)])[0])[None]


def theirs(base: Causal, folder: Path):
    import transformers
    from peft import PeftModel

    plain = transformers.AutoModelForCausalLM.from_pretrained(base.info.path)
    return PeftModel.from_pretrained(plain, folder / "adapter").eval()


ADAPTERS = [
    (rung, architecture)
    for rung in ("lora", "ia3", "prompt_tuning", "prefix_tuning")
    for architecture in ("llama", "gpt2", "gpt_neox")
]


@pytest.mark.parametrize(("rung", "architecture"), ADAPTERS)
def test_peft_loads_it_on_the_model_that_writes(rung: str, architecture: str, base_of, tmp_path: Path) -> None:
    base = base_of(architecture)
    predictor = writer(base, rung)
    predictor.save(tmp_path)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))["task_type"] == "CAUSAL_LM"
    model = theirs(base, tmp_path)
    ours = predictor._changed
    for row in ROWS:
        ids = prompt_ids(base, row)
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
            hidden = ours.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            found, plain = ours.read(hidden), base.whole(input_ids=ids).logits[0]
        assert float((found - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
        assert float((found - plain).abs().max()) > 0.1, "it must change the answers"


@pytest.mark.parametrize(("rung", "architecture"), [(r, a) for r, a in ADAPTERS if a != "gpt_neox"])
def test_transformers_writes_the_same_with_pefts_model(rung: str, architecture: str, base_of, tmp_path: Path) -> None:
    base = base_of(architecture)
    predictor = writer(base, rung)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: base)
    model = theirs(base, tmp_path)
    for row, answer in zip(ROWS, loaded.predict(ROWS), strict=True):
        ids = prompt_ids(base, row)
        with torch.no_grad():
            whole = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=DECODING.max_new_tokens,
                do_sample=False,
                pad_token_id=base.pad_id,
                eos_token_id=list(base.end_ids),
            )
        said = base.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == said.strip()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_model_of_its_own_weights_writes_what_transformers_does(architecture: str, base_of, tmp_path: Path) -> None:
    import transformers

    base = base_of(architecture)
    predictor = writer(base, "full")
    predictor.save(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(base.info.path)
    missing, unexpected = model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    model.eval()
    for row, answer in zip(ROWS, load_predictor(tmp_path, lambda name: base).predict(ROWS), strict=True):
        ids = prompt_ids(base, row)
        with torch.no_grad():
            whole = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=DECODING.max_new_tokens,
                do_sample=False,
                pad_token_id=base.pad_id,
                eos_token_id=list(base.end_ids),
            )
        assert answer.text == base.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("rung", ["lora", "prefix_tuning", "prompt_tuning"])
def test_answers_do_not_depend_on_padding_before_them(rung: str, base_of) -> None:
    predictor = writer(base_of("llama"), rung)
    together = predictor.predict(ROWS)
    for row, answer in zip(ROWS, together, strict=True):
        (alone,) = predictor.predict([row])
        assert alone.text == answer.text
        assert alone.target_log_probability == pytest.approx(answer.target_log_probability, abs=1e-4)


@pytest.mark.parametrize("rung", ["lora", "prompt_tuning", "prefix_tuning"])
def test_the_target_has_the_probability_that_pefts_model_gives_it(rung: str, base_of, tmp_path: Path) -> None:
    base = base_of("llama")
    predictor = writer(base, rung)
    predictor.save(tmp_path)
    model = theirs(base, tmp_path)
    for row, answer in zip(ROWS, predictor.predict(ROWS), strict=True):
        (request,) = predictor.requests([row])
        assert request is not None
        whole = torch.from_numpy(np.concatenate([request.context, request.continuation]))[None]
        with torch.no_grad():
            logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0, -whole.shape[1] :]
        log = torch.log_softmax(logits.double(), dim=-1)
        places = range(len(request.context) - 1, whole.shape[1] - 1)
        expected = sum(float(log[place, whole[0, place + 1]]) for place in places)
        assert answer.target_log_probability == pytest.approx(expected, abs=1e-4)
        assert answer.target_tokens == len(request.continuation)


def save(predictor: AdaptedWriter, folder: Path) -> None:
    save_bundle(predictor, folder, task_name="t", kind="generate", columns=["text"], policy="keep_start", probes=ROWS)


@pytest.mark.parametrize("rung", ["lora", "full"])
def test_a_bundle_answers_as_it_was_saved(rung: str, base_of, tmp_path: Path) -> None:
    base = base_of("llama")
    predictor = writer(base, rung)
    save(predictor, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle", device="cpu")
    assert [p.text for p in bundle.predict(TEXTS)] == [p.text for p in predictor.predict(ROWS)]


def test_an_adapter_that_changes_nothing_is_not_served(base_of, tmp_path: Path) -> None:
    predictor = writer(base_of("llama"), "lora")
    predictor.save(tmp_path)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    stored = load_file(weights)
    save_file({name: 0.0 * tensor for name, tensor in stored.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(
        BundleError, match=r"what was trained changes nothing on .*llama\. It was made for another base"
    ):
        load_predictor(tmp_path, lambda name: base_of("llama"))


def test_an_adapter_of_another_base_is_refused(base_of, tmp_path: Path) -> None:
    writer(base_of("llama"), "lora").save(tmp_path)
    with pytest.raises(BundleError, match=r"The bundle is damaged, or its base is another one"):
        load_predictor(tmp_path, lambda name: base_of("gpt2"))


def test_a_probe_whose_text_stays_but_whose_probability_changed_is_found(base_of, tmp_path: Path) -> None:
    base = base_of("llama")
    predictor = writer(base, "lora")
    save(predictor, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle", device="cpu", check=False)
    less = {name: 0.999 * tensor for name, tensor in predictor.tensors.items()}
    other = AdaptedWriter(
        base=base, policy="keep_start", prompt=Prompt(), decoding=DECODING, tensors=less, adapter=predictor.adapter
    )
    changed = dataclasses.replace(bundle, predictor=other)
    with pytest.raises(BundleError, match=r"probe \d was answered"):
        check_probes(changed, tmp_path / "bundle")
