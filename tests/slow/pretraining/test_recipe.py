"""The recipe at a toy size, from sources to batches and the 5-gram: the same bytes twice, and nothing measured on."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining import corpus, measure, ngram, pack, publish, tokenizer, train
from pretraining.debian import Unpacked
from pretraining.documents import Document, Pair, held_out
from pretraining.sources import Places, Source
from tunewise.models.load import load_base

WORDS = [
    *("shell", "line", "file", "name", "reads", "writes", "prints", "opens", "closes", "directory", "command"),
    *("option", "value", "table", "index", "query", "the", "a", "of", "to", "and", "that", "is", "in", "be", "with"),
]
MEASURED = "the quick brown fox of the shell jumps over each lazy line that it reads in the file"


def text(rng: np.random.Generator, sentences: int) -> str:
    lines = [" ".join(rng.choice(WORDS, size=9)).capitalize() + "." for _ in range(sentences)]
    return "The page is to be read with care.\n\n" + " ".join(lines)


def pages(places: Places):
    rng = np.random.default_rng(0)
    for number in range(120):
        yield Document(id=f"pages/{number}", title=f"The page {number}", topic="the shell", text=text(rng, 20))
    yield Document(id="pages/double", title="The page 0 again", text=text(np.random.default_rng(0), 20))
    yield Document(id="pages/measured", title="The fox", text=f"{text(rng, 20)}\n\nIt says: {MEASURED}.")
    yield Document(id="pages/short", title="Short", text="The end.")


def code(places: Places):
    for number in range(60):
        source = (
            f'def read_{number}(path):\n    """Return line {number} of the file."""\n    return lines(path)[{number}]\n'
        )
        yield Document(id=f"code/{number}", title="code", text=source * 2)
        fields = {"code": f"def read_{number}(path):\n    return lines(path)[{number}]"}
        yield Pair(document=f"code/{number}", task="code_summary", fields=fields, answer=f"Return line {number}.")


SOURCES = [
    Source(name="toy/pages", kind="docs", license="CC0-1.0", read=pages),
    Source(name="toy/code", kind="code", license="MIT", read=code),
]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.*"))}


@pytest.mark.slow
def test_the_recipe_from_sources_to_batches(tmp_path):
    data, examples = tmp_path / "data", tmp_path / "examples"
    (data / "lm_text").mkdir(parents=True)
    (data / "lm_text" / "wikitext2_valid.raw").write_text(" = Lobster = \n\n The lobster is a large animal . \n")
    (data / "foxes").mkdir()
    (data / "foxes" / "all.jsonl").write_text(json.dumps({"text": MEASURED}) + "\n")
    examples.mkdir()
    library = tmp_path / "library"
    library.mkdir()
    (library / "fox.py").write_text("# nothing of the sources\n")
    places = Places(data, Unpacked(tmp_path / "cache"))
    report = corpus.make(tmp_path / "a", places, SOURCES, examples=examples, library=library)
    again = corpus.make(tmp_path / "b", places, SOURCES, examples=examples, library=library)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert report == again
    before = digests(tmp_path / "a")
    never = [Source(name=each.name, kind=each.kind, license=each.license, read=_not_again) for each in SOURCES]
    corpus.make(tmp_path / "a", places, never, examples=examples, library=library)
    assert digests(tmp_path / "a") == before

    dropped = report["sources"]["toy/pages"]["dropped"]
    assert dropped["short"] == dropped["exact duplicate"] == dropped["passage: measured on"] == 1
    assert report["measured_on"]["dropped"] == {"foxes": 1}
    learnt_from, kept_out = (list(corpus.read_texts(tmp_path / "a", part)) for part in ("train", "held_out"))
    assert not any("quick brown fox" in each.text for each in [*learnt_from, *kept_out])
    assert learnt_from
    assert kept_out
    assert not any(held_out(each.document) for each in learnt_from)
    assert all(held_out(each.document) for each in kept_out)
    assert {each.kind for each in learnt_from} == {"docs", "code", "task"}
    assert {each.source for each in learnt_from} >= {
        "toy/pages",
        "toy/code",
        "tasks/title",
        "tasks/topic",
        "tasks/code_summary",
    }

    learnt = tokenizer.make(tmp_path / "a", tmp_path / "tokenizer", vocabulary=450)
    assert learnt["vocabulary"] == 450
    assert learnt["held_out"]["wikitext2"]["bytes_per_token"] > 1
    tokens = tmp_path / "tokens"
    manifest = pack.make(tmp_path / "a", tmp_path / "tokenizer", tokens)
    shard = pack.read(tokens, "train")
    assert (
        manifest["parts"]["train"]["tokens"]
        == len(shard.tokens_N)
        == sum(manifest["parts"]["train"]["by_source"].values())
    )
    assert len(shard) == len(learnt_from)
    grams = ngram.measure(tokens, guesses=50)
    (tokens / "ngram.json").write_text(json.dumps(grams), "utf-8")
    measured = grams["parts"]
    uniform = np.log2(450) / learnt["held_out"]["docs"]["bytes_per_token"]
    assert measured["docs"]["bits_per_byte"] < 0.6 * uniform
    assert measured["docs"]["masked_tokens_5gram"] >= measured["docs"]["masked_tokens_unigram"]

    for family in ("causal", "masked", "seq2seq"):
        recipe = train.Recipe(
            family=family, size="toy", epochs=2, length=64, batch_rows=16, learning_rate=5e-3, slices=4, dev_rows=8
        )
        folder = tmp_path / family
        told = train.train(recipe, tokens, tmp_path / "tokenizer", folder)
        _, losses = told["stages"][-1]["dev"]
        assert losses[-1] < losses[0] - 0.2, (family, losses)
        # cut short after the newest checkpoint but one, it goes on to the same weights
        weights = digests(folder)["model.safetensors"]
        shutil.rmtree(max((folder / "checkpoints").glob("step-*")))
        train.train(recipe, tokens, tmp_path / "tokenizer", folder)
        assert digests(folder)["model.safetensors"] == weights
        assert load_base(str(folder)).info.family == family
        found = measure.measure(folder, tokens, tmp_path / "a", against=tmp_path / "causal")
        docs = found["parts"]["docs"]
        (folder / "measured.json").write_text(json.dumps(found), "utf-8")
        digest = publish.publish(folder, tokens, tmp_path / "published" / family)
        halves, whole = (load_base(str(path), device="cpu") for path in (tmp_path / "published" / family, folder))
        assert halves.info.sha256 == digest
        assert halves.info.english_only
        for (name, half), (_, own) in zip(halves.model.named_parameters(), whole.model.named_parameters(), strict=True):
            assert torch.allclose(half, own, rtol=1e-3, atol=1e-4), name
        card = (tmp_path / "published" / family / "README.md").read_text("utf-8")
        assert f"{losses[-1]:.2f}" in card
        assert f"- {told['stages'][0]['steps']:,} steps of 16 rows of 64 tokens" in card
        if family == "causal":
            bits = docs["bits_per_byte"]
            assert bits["base"] == bits["against"] < 0.8 * uniform
            assert bits["5-gram"] == measured["docs"]["bits_per_byte"]
        else:
            [(kind, share)] = docs.items()
            assert kind == {"masked": "masked_tokens", "seq2seq": "spans_of_3"}[family]
            assert share["5-gram"] == measured["docs"][f"{kind}_5gram"]
            assert not json.loads((folder / "config.json").read_text("utf-8")).get("sparse_prediction")

    # what was trained with a constant rate goes on from its newest weights to a rate of zero
    stable = dataclasses.replace(recipe, family="causal", schedule="constant", epochs=1)
    train.train(stable, tokens, tmp_path / "tokenizer", tmp_path / "stable")
    decay = dataclasses.replace(
        stable, schedule="linear", after=str(tmp_path / "stable"), warmup_steps=1, evaluations=4
    )
    begun, ended = (
        train.train(each, tokens, tmp_path / "tokenizer", tmp_path / name)["stages"][-1]["dev"][1]
        for each, name in ((stable, "again"), (decay, "decay"))
    )
    first, second = json.loads((tmp_path / "decay" / "training.json").read_text("utf-8"))["stages"]
    [alone] = json.loads((tmp_path / "stable" / "training.json").read_text("utf-8"))["stages"]
    assert first == alone
    assert first["recipe"]["schedule"] == "constant"
    assert second["train"][1][0] < first["train"][1][0] - 0.2
    assert ended[0] < begun[0]
    assert ended[-1] < begun[-1]
    with pytest.raises(SystemExit, match="no checkpoint to start from"):
        train.train(dataclasses.replace(decay, after=str(tmp_path)), tokens, tmp_path / "tokenizer", tmp_path / "none")


def _not_again(places: Places):
    raise AssertionError("a source that was read is not read again")
