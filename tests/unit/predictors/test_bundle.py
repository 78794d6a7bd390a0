"""A bundle answers as it was measured, or says which part of it does not."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tunewise
from tunewise.errors import BundleError, DataError
from tunewise.models.encoder import Encoder
from tunewise.models.load import load_base
from tunewise.models.tiny import tiny_encoder
from tunewise.predictors.bundle import PREDICTOR, load_bundle, load_predictor, save_bundle
from tunewise.predictors.manifest import MANIFEST, read_manifest, to_text
from tunewise.predictors.retrieved import RetrievedPredictor
from tunewise.types import Example

TEXTS = ("the card was stolen", "a film of great charm", "refund the money", "never dull", "cancel my order")


def rewrite(folder: Path, **changes: object) -> None:
    """A manifest that is consistent with itself but says something else."""
    manifest = dataclasses.replace(read_manifest(folder), **changes)
    (folder / MANIFEST).write_text(to_text(manifest))


def test_a_bundle_answers_as_its_predictor_did(bundle: Path, predictor) -> None:
    loaded = load_bundle(bundle)
    examples = [Example(id=text, fields={"text": text}) for text in TEXTS]
    expected = predictor.predict(examples)
    for inputs in (TEXTS, [(text,) for text in TEXTS], [{"text": text, "other": "1"} for text in TEXTS], examples):
        for found, wanted in zip(loaded.predict(inputs), expected, strict=True):
            assert (found.text, found.evidence) == (wanted.text, wanted.evidence)
            assert found.scores == pytest.approx(wanted.scores, abs=1e-5)


def test_the_manifest_says_what_the_bundle_is(bundle: Path, predictor) -> None:
    plain = json.loads((bundle / MANIFEST).read_text())
    assert plain["version"] == 2
    assert plain["predictor"] == predictor.kind
    assert plain["extra"] == {"metric": "accuracy"}
    assert set(plain["files"]) == {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} - {
        MANIFEST
    }
    assert [probe["fields"]["text"] for probe in plain["probes"]] == list(TEXTS)
    if predictor.base is not None:
        assert plain["base"]["sha256"] == predictor.base.info.sha256
        assert plain["base"]["dtype"] == "float32"


def test_the_same_predictor_makes_the_same_bundle(bundle: Path, predictor, tmp_path: Path) -> None:
    again = save_bundle(
        predictor,
        tmp_path / "again",
        task_name="tickets",
        kind="classify",
        columns=("text",),
        policy="keep_start",
        probes=[Example(id=text, fields={"text": text}) for text in TEXTS],
        card="# Tickets\n",
        extra={"metric": "accuracy"},
    )
    assert again.digest == read_manifest(bundle).digest == json.loads((bundle / MANIFEST).read_text())["digest"]


def test_at_most_sixteen_probes_are_kept(constant, tmp_path: Path) -> None:
    examples = [Example(id=str(i), fields={"text": str(i)}) for i in range(20)]
    manifest = save_bundle(
        constant, tmp_path / "b", task_name="t", kind="classify", columns=("text",), policy="refuse", probes=examples
    )
    assert len(manifest.probes) == 16


def test_every_changed_byte_is_noticed(bundle: Path) -> None:
    """Every file, at about forty places each."""
    for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        for place in range(0, len(raw), max(1, len(raw) // 40)):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(BundleError, match=path.name):
                load_bundle(bundle, check=False)
        path.write_bytes(raw[:-1])
        with pytest.raises(BundleError, match=path.name):
            load_bundle(bundle, check=False)
        path.write_bytes(raw)
    load_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    with pytest.raises(BundleError, match=r"README\.md is missing"):
        load_bundle(bundle)


def test_a_file_too_many_is_named(bundle: Path) -> None:
    (bundle / PREDICTOR / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match=r"predictor/notes\.txt does not belong to the bundle"):
        load_bundle(bundle)


def test_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "README.md", tmp_path / "outside.md")
    (bundle / "README.md").symlink_to(tmp_path / "outside.md")
    with pytest.raises(BundleError, match=r"README\.md is a link"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "C:/x", "a//b", "./a", ""])
def test_a_file_outside_the_bundle_is_refused(bundle: Path, name) -> None:
    rewrite(bundle, files={**read_manifest(bundle).files, name: "0" * 64})
    with pytest.raises(BundleError, match="does not lie inside the bundle"):
        load_bundle(bundle)


def test_a_probe_that_is_answered_differently_is_named(bundle: Path) -> None:
    probes = list(read_manifest(bundle).probes)
    assert probes[2].scores is not None
    shifted = {label: score + 0.001 * (label == "card") for label, score in probes[2].scores.items()}
    probes[2] = dataclasses.replace(probes[2], scores=shifted)
    rewrite(bundle, probes=tuple(probes))
    with pytest.raises(BundleError, match=r"probe 2 was answered .* differ by 0\.001 \(allowed: 0\.0001\)"):
        load_bundle(bundle)
    load_bundle(bundle, check=False)


def test_a_probe_with_another_label_is_named(bundle: Path) -> None:
    first, *others = read_manifest(bundle).probes
    worst = min(first.scores or {}, key=(first.scores or {}).__getitem__)
    rewrite(bundle, probes=(dataclasses.replace(first, label=worst), *others))
    with pytest.raises(BundleError, match=f"probe 0 was answered '{worst}'"):
        load_bundle(bundle)


def test_another_base_is_refused(bundle: Path) -> None:
    record = read_manifest(bundle).base
    if record is None:
        pytest.skip("a constant has no base")
    rewrite(bundle, base=dataclasses.replace(record, sha256="0" * 64))
    with pytest.raises(BundleError, match=r"made on .* with weights 000000000000…, but .* has"):
        load_bundle(bundle)


def test_a_base_that_is_gone_is_told(bundle: Path) -> None:
    record = read_manifest(bundle).base
    if record is None:
        pytest.skip("a constant has no base")
    rewrite(bundle, base=dataclasses.replace(record, name="/gone", path="/gone"))
    with pytest.raises(BundleError, match="the base it answers with cannot be used"):
        load_bundle(bundle)


def test_a_base_that_moved_can_be_handed_in(bundle: Path, tiny: Encoder) -> None:
    record = read_manifest(bundle).base
    if record is None:
        pytest.skip("a constant has no base")
    rewrite(bundle, base=dataclasses.replace(record, name="/gone", path="/gone"))
    assert load_bundle(bundle, base=tiny).predictor.base is tiny


def test_a_base_that_is_handed_in_must_have_the_same_weights(bundle: Path, tmp_path: Path) -> None:
    if read_manifest(bundle).base is None:
        pytest.skip("a constant has no base")
    other = load_base(str(tiny_encoder(tmp_path / "other", seed=1)), device="cpu")
    with pytest.raises(BundleError, match="Use the same revision of the base"):
        load_bundle(bundle, base=other)


def _changed(path: Path, change) -> None:
    plain = json.loads(path.read_text("utf-8"))
    change(plain)
    path.write_text(json.dumps(plain), "utf-8")


def _swap(plain) -> None:
    """Two words of the vocabulary change places."""
    words = plain["model"]["vocab"]
    words["card"], words["film"] = words["film"], words["card"]


def test_a_base_whose_tokenizer_changed_is_refused(tiny_base: Path, head, tmp_path: Path) -> None:
    """The probes need not show it: they say nothing of the words that changed."""
    folder, saved = tmp_path / "base", tmp_path / "b"
    shutil.copytree(tiny_base, folder)
    head.base = load_base(str(folder), device="cpu", dtype="float32")
    save_bundle(head, saved, task_name="t", kind="classify", columns=("text",), policy="refuse", probes=())
    _changed(folder / "tokenizer.json", lambda plain: plain.update(truncation=None, padding=None))
    _changed(folder / "tokenizer_config.json", lambda plain: plain.update(name_or_path="elsewhere"))
    load_bundle(saved)
    _changed(folder / "tokenizer.json", _swap)
    with pytest.raises(BundleError, match=r"with another tokenizer than .* has now"):
        load_bundle(saved)
    with pytest.raises(BundleError, match=r"with another tokenizer than .* has now"):
        load_bundle(saved, base=load_base(str(folder), device="cpu", dtype="float32"))


def test_another_version_is_told(bundle: Path) -> None:
    rewrite(bundle, version=3)
    with pytest.raises(BundleError, match="format version 3; this version of tunewise reads 1 and 2"):
        load_bundle(bundle)


def test_a_bundle_of_the_first_format_is_read(bundle: Path, predictor) -> None:
    rewrite(bundle, version=1)
    assert "tokenizer_sha256" not in (bundle / MANIFEST).read_text("utf-8")
    assert load_bundle(bundle).predict(TEXTS[:1])[0].text == load_bundle(bundle).manifest.probes[0].label


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff", b'{"version": 1}', b"[" * 100_000])
def test_what_is_no_manifest_is_told(bundle: Path, content) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST):
        load_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        load_bundle(tmp_path / "nothing")


def test_a_bundle_measured_in_bf16_is_loaded_in_bf16(tiny_base: Path, head, tmp_path: Path) -> None:
    head.base = load_base(str(tiny_base), device="cpu", dtype="bfloat16")
    examples = [Example(id=text, fields={"text": text}) for text in TEXTS]
    save_bundle(
        head, tmp_path / "b", task_name="t", kind="classify", columns=("text",), policy="refuse", probes=examples
    )
    assert load_bundle(tmp_path / "b").predictor.base is head.base


def test_a_base_kept_as_a_pickle_needs_permission_again(tiny_base: Path, head, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    head.base = load_base(str(folder), device="cpu", dtype="float32", allow_pickle=True)
    saved = tmp_path / "b"
    save_bundle(head, saved, task_name="t", kind="classify", columns=("text",), policy="refuse", probes=())
    with pytest.raises(BundleError, match="--allow-pickle"):
        tunewise.load(saved)
    assert tunewise.load(saved, allow_pickle=True).predict([TEXTS[0]])[0].text in head.labels


def test_inputs_without_the_columns_are_told(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    with pytest.raises(DataError, match=r"input 1 has no 'text'; expected text, found body"):
        loaded.predict(["x", {"body": "y"}])
    with pytest.raises(DataError, match=r"input 0 is \(str, str\); expected 1 text\(s\): text"):
        loaded.predict([("a", "b")])
    with pytest.raises(DataError, match="Put it in a list"):
        loaded.predict("one text")


def test_rows_that_are_cut_are_counted(bundle: Path, predictor) -> None:
    cut = load_bundle(bundle).cut_rows(["pay", "a film of great charm " * 50])
    assert cut == (0 if predictor.base is None else 1)


def test_a_predictor_with_numbers_that_are_none_is_not_saved(head, tmp_path: Path) -> None:
    head.bias_L = np.array([np.nan, 0, 0], dtype=np.float32)
    with pytest.raises(BundleError, match="scores that are not numbers"):
        save_bundle(
            head,
            tmp_path / "b",
            task_name="t",
            kind="classify",
            columns=("text",),
            policy="refuse",
            probes=[Example(id="0", fields={"text": "x"})],
        )
    assert not (tmp_path / "b").exists()


def test_a_save_that_fails_leaves_the_old_bundle(bundle: Path, predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(bundle).digest

    def fails(folder: Path) -> None:
        (folder / "half").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(predictor, bundle, task_name="t", kind="classify", columns=("text",), policy="refuse", probes=[])
    assert read_manifest(bundle).digest == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_predictor_is_recognised_by_its_settings(predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    assert type(load_predictor(tmp_path, lambda name: predictor.base)) is type(predictor)
    (tmp_path / f"{predictor.kind}.json").unlink()
    with pytest.raises(BundleError, match="expected the settings of one predictor"):
        load_predictor(tmp_path, lambda name: predictor.base)


def test_texts_of_any_script_survive(tiny: Encoder, tmp_path: Path) -> None:
    texts = ("🙂 مرحبا", "a\x00b", "lone \ud83d")
    predictor = RetrievedPredictor(
        base=tiny,
        labels=("a", "b"),
        policy="refuse",
        vector_NH=tiny.features([(text,) for text in texts], "refuse"),
        target_N=np.array([0, 1, 0]),
        texts=texts,
        neighbours=1,
        temperature=0.1,
    )
    examples = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(texts)]
    save_bundle(
        predictor, tmp_path / "b", task_name="t", kind="classify", columns=("text",), policy="refuse", probes=examples
    )
    loaded = load_bundle(tmp_path / "b")
    assert [probe.fields["text"] for probe in loaded.manifest.probes] == list(texts)
    assert loaded.predictor.texts == texts
