"""Put a trained base where it is installed from: weights in half precision, tokenizer, and a card of what was measured.

    python -m pretraining.publish pretraining/build/causal

Prints the sha256 that `tunewise.models.load.BUNDLED` must have.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from pretraining.corpus import ROOT
from pretraining.tokenizer import Family
from tunewise.models.describe import describe_folder

ABLE: dict[Family, str] = {
    "causal": "It goes on with plain English and with documentation of software, in sentences that are mostly well "
    "formed and seldom true. It has seen tasks (summaries of functions, what commands do, definitions) in several "
    "phrasings and as turns of a chat, and answers in their form, rarely rightly, before it is fine-tuned.",
    "masked": "It fills gaps in plain English and in documentation of software with words that often fit.",
    "seq2seq": "It fills spans in plain English and in documentation of software, and has seen tasks as question and "
    "answer.",
}
CARD = """---
language: en
license: apache-2.0
library_name: transformers
---

# bundled:{family}

A {weights}-million-weight {architecture} trained from random weights by `pretraining/` of Tunewise, to try every rung
without a model hub, for tests and for CI. It is no base for real work: take one from the hub for that.

## Data

{tokens_learnt} million tokens of English prose in the public domain, documentation packages of Debian 12, Python source
with docstrings, and tasks made of these; `pretraining/README.md` lists sources, licenses, and what was taken out
because something is measured on it. One byte-level BPE of 8,192 tokens for all bundled bases.

## Training

{tokens_read} million tokens were read ({share} of the corpus) by `tunewise.training.loop`:

{stages}

Loss in nats per token:

| tokens read (million) | learnt text | documentation kept out |
|---|---|---|
{curve}

## What it can do

{able}

{measured}

How far its ladder rises on an example stands in `examples/{example}/README.md`.

It repeats what its sources think of people and things: nineteenth-century prose among them. It knows no news, no
arithmetic to rely on, and no language but English.
"""


def publish(trained: Path, tokens: Path, to: Path) -> str:
    """Write the folder, and say the digest of its weights."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    told = json.loads((trained / "training.json").read_text("utf-8"))
    measured = json.loads((trained / "measured.json").read_text("utf-8"))
    to.mkdir(parents=True, exist_ok=True)
    weights = load_file(trained / "model.safetensors")
    halves = {name: own.to(torch.float16).contiguous() for name, own in weights.items()}
    for name, own in halves.items():
        if not bool(torch.isfinite(own).all()):
            raise SystemExit(f"pretraining: {name} does not fit half precision; it was not published.")
    save_file(halves, to / "model.safetensors", {"format": "pt"})
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ):
        if (trained / name).is_file():
            shutil.copyfile(trained / name, to / name)
    config = json.loads((to / "config.json").read_text("utf-8")) | {"dtype": "float16"}
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (to / "model.safetensors").chmod(0o644)
    corpus = json.loads((tokens / "manifest.json").read_text("utf-8"))["parts"]["train"]["tokens"]
    architecture = AutoConfig.from_pretrained(trained).architectures[0]
    (to / "README.md").write_text(card(told, measured, corpus, architecture), "utf-8")
    return describe_folder(to, name=str(to), revision=None).sha256


def card(told: dict[str, Any], measured: dict[str, Any], corpus: int, architecture: str) -> str:
    """The model card; every number of it is of this training or measured."""
    stages = told["stages"]
    recipe = stages[-1]["recipe"]
    read = sum(stage["tokens_read"] for stage in stages)
    return CARD.format(
        family=recipe["family"],
        weights=f"{told['weights'] / 1e6:.1f}",
        architecture=architecture,
        tokens_learnt=f"{corpus / 1e6:.1f}",
        tokens_read=f"{read / 1e6:.1f}",
        share=f"{100 * read / corpus:.0f} %",
        stages="\n".join(map(_stage, stages)),
        curve="\n".join(_curve(stages)),
        able=ABLE[recipe["family"]],
        example="sentiment" if recipe["family"] == "masked" else "code_summary",
        measured=_measured(measured),
    )


def _stage(stage: dict[str, Any]) -> str:
    recipe = stage["recipe"]
    rate = "constant" if recipe["schedule"] == "constant" else f"{recipe['schedule']} to zero"
    numbers = "fp32" if stage["device"] == "CPU" else f"products in bf16 on one {stage['device']}"
    return (
        f"- {stage['steps']:,} steps of {recipe['batch_rows']} rows of {recipe['length']} tokens, AdamW at a peak rate "
        f"of {recipe['learning_rate']:g}, {rate}, {numbers}"
    )


def _curve(stages: list[dict[str, Any]]) -> list[str]:
    """A line for every evaluation: the mean loss of the steps before it, and the loss on what was kept out."""
    lines, offset = [], 0
    for stage in stages:
        (train_steps, train_losses), (dev_steps, dev_losses) = stage["train"], stage["dev"]
        since = 0
        for step, loss in zip(dev_steps, dev_losses, strict=True):
            own = [each for at, each in zip(train_steps, train_losses, strict=True) if since < at <= step]
            tokens = offset + stage["tokens_read"] * step / stage["steps"]
            learnt = f"{sum(own) / len(own):.2f}" if own else ""
            lines.append(f"| {tokens / 1e6:.1f} | {learnt} | {loss:.2f} |")
            since = step
        offset += stage["tokens_read"]
    return lines


def _measured(measured: dict[str, Any]) -> str:
    """A table of the held-out parts, the kinds of models side by side."""
    parts = measured["parts"]
    [kind] = {kind for own in parts.values() for kind in own}
    sides = list(next(iter(parts.values()))[kind])
    names = {"base": "this base", "against": measured.get("against")}
    form = "{:.3f}" if kind == "bits_per_byte" else "{:.0%}"
    head = {
        "bits_per_byte": "Bits per byte of text that was kept out (fewer are better)",
        "masked_tokens": "Share of hidden tokens that are guessed",
        "spans_of_3": "Share of hidden spans of three tokens that are written right",
    }[kind]
    rows = [
        f"| {name} | " + " | ".join(form.format(own[kind][side]) for side in sides) + " |"
        for name, own in parts.items()
    ]
    title = "| | " + " | ".join(names.get(side) or side for side in sides) + " |"
    return "\n".join([f"{head}:", "", title, "|---" * (len(sides) + 1) + "|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--tokens", type=Path, default=ROOT / "pretraining/build/tokens")
    parser.add_argument("--to", type=Path, help="default: where it is installed from")
    given = parser.parse_args()
    family = json.loads((given.trained / "training.json").read_text("utf-8"))["stages"][-1]["recipe"]["family"]
    to = given.to or ROOT / "src/tunewise/models/bundled" / family
    print(publish(given.trained, given.tokens, to))


if __name__ == "__main__":
    main()
