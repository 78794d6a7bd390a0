"""Train a base from random weights on the packed corpus, by the project's own training loop.

    python -m pretraining.train causal --size small --epochs 4 --out pretraining/build/causal

A training that was cut short goes on from its newest checkpoint to the same weights. Axes: P members (one), R rows of a
micro-batch, E rows, N tokens that are said, V vocabulary.
"""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.bases import Size, fresh
from pretraining.corpus import ROOT
from pretraining.pack import (
    IDS,
    NOT_SAID,
    MaskedTokens,
    Material,
    NextTokens,
    Shard,
    SpansAndQuestions,
    Stream,
    padded,
    read,
    taken_for,
)
from pretraining.tokenizer import LENGTH, PAD, Family, load, of_family
from tunewise import seeding
from tunewise.models.precision import bf16_is_fast, resolve_device
from tunewise.training.batches import Sizes
from tunewise.training.checkpoint import load_checkpoint, save_checkpoint
from tunewise.training.flat import Flat, Group
from tunewise.training.loop import Loop, Plan
from tunewise.training.objective import Part, Settings
from tunewise.training.optimizer import ScheduleName
from tunewise.training.population import WORK_FULL

ON_DEV = -1
"""Instead of a step: what is drawn for a row of dev is the same at every evaluation."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base is trained: AdamW, a short warm-up, and then as `schedule` says.

    A training whose end is not known yet is `constant`, and another that goes on from it falls to zero, `linear` (Hu et
    al. 2024, "MiniCPM", arXiv 2404.06395, section 4: warm-up, stable, decay).
    """

    family: Family
    size: Size = "small"
    epochs: float = 4.0
    schedule: ScheduleName = "cosine"
    after: str | None = None
    """The folder of a training whose newest weights this one starts with, in place of random ones."""
    batch_rows: int = 2
    """Few, so that a step comes often: on a CPU it is tokens that are dear."""
    length: int = LENGTH
    answer_length: int = 160
    """Of a task, for a decoder."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 200
    evaluations: int = 20
    dev_rows: int = 32
    seed: int = 0
    slices: int = 50
    """Checkpoints, at even distances."""


class Trained:
    """A population of one model, all of whose weights are trained; they are views of the loop's buffer."""

    work_per_token = WORK_FULL

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model.to(device).train()
        self._leaves = dict(self.model.named_parameters())  # a table that is read and written stands there once
        self.flat = Flat({name: own[None] for name, own in self._leaves.items()}, group=_group)
        for name, view in self.flat.views(self.flat.values_PN).items():
            self._leaves[name].data = view[0]
        self.encoder: Any = SimpleNamespace(device=device)
        self._fresh = True
        # a masked base gives logits where something is said only, the others everywhere
        self._sparse = getattr(model.config, "sparse_prediction", False)
        # products in bf16 where the device has them; weights, sums and losses stay in fp32
        self._bf16 = device.type == "cuda" and bf16_is_fast("cuda")

    @property
    def size(self) -> int:
        return self.flat.size

    @property
    def trainable_parameters(self) -> int:
        return self.flat.numbers

    def loss(self, read_RT: Tensor, said_RT: Tensor) -> Tensor:
        """Summed loss [R] of rows."""
        own = torch.autocast("cuda", torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with own:
            logits_NV = self._logits(read_RT, said_RT)
        at_RT = said_RT != NOT_SAID if self._sparse else torch.ones_like(said_RT, dtype=torch.bool)
        loss_N = F.cross_entropy(logits_NV.float(), said_RT[at_RT], reduction="none", ignore_index=NOT_SAID)
        row_N = at_RT.nonzero()[:, 0]
        return torch.zeros(len(said_RT), device=loss_N.device).index_add_(0, row_N, loss_N)

    def _logits(self, read_RT: Tensor, said_RT: Tensor) -> Tensor:
        mask_RT = (read_RT != IDS[PAD]).long()
        if self._sparse:
            sparse_NV: Tensor = self.model(input_ids=read_RT, attention_mask=mask_RT, labels=said_RT).logits
            return sparse_NV
        if not self.model.config.is_encoder_decoder:
            logits_RTV: Tensor = self.model(input_ids=read_RT, attention_mask=mask_RT).logits
            return logits_RTV.flatten(0, 1)
        # a decoder reads <pad>, and then what it said
        before_RT = F.pad(said_RT.clamp(min=IDS[PAD])[:, :-1], (1, 0), value=IDS[PAD])
        answered: Tensor = self.model(input_ids=read_RT, attention_mask=mask_RT, decoder_input_ids=before_RT).logits
        return answered.flatten(0, 1)

    def start_step(self) -> None:
        self._fresh = True
        for leaf in self._leaves.values():
            leaf.grad = None

    def gather(self) -> None:
        self.flat.collect(self._leaves, fresh=self._fresh)
        self._fresh = False

    def refresh(self) -> None:
        """The weights are the buffer."""

    def release(self) -> None:
        self.flat.release()

    def export(self, row_N: Tensor) -> dict[str, Tensor]:
        return self.flat.member(row_N)


def _group(name: str, tensor: Tensor) -> Group:
    """Matrices decay; norms do not, nor the table of tokens, most of whose rows have no gradient in a step."""
    return Group(decays=tensor.dim() > 2 and "embed" not in name and "shared" not in name)


@dataclass(frozen=True)
class Rows:
    """Rows of a material, all or some, as the loop reads them."""

    material: Material
    which_E: np.ndarray

    @property
    def sizes(self) -> Sizes:
        tokens_E = self.material.tokens_E[self.which_E]
        return Sizes(np.ones(len(tokens_E), np.int64), tokens_E, tokens_E)

    def subset(self, indices: Sequence[int]) -> "Rows":
        return Rows(self.material, self.which_E[list(indices)])


class Foreseeing:
    """Negative log-likelihood of the tokens that are to be said; of every dev row it is remembered, summed."""

    numbers = 1

    def __init__(self, train: Rows, race: Rows, *, seed: int, device: torch.device) -> None:
        self.train, self.race = train, race
        self._seed, self._device = seed, device

    def weight(self, rows: np.ndarray) -> float:
        return float(self.train.material.said_E[self.train.which_E[rows]].sum())

    def losses(self, population: Any, part: Part) -> Tensor:
        read_RT, said_RT = self._batch(self.train, part.rows, part.passes[0])
        loss: Tensor = population.loss(read_RT, said_RT)
        return loss.sum()[None]

    def answers(self, population: Any, rows: Rows, run: list[int], active: Sequence[int]) -> Tensor:
        population.model.eval()
        loss: Tensor = population.loss(*self._batch(rows, run, ON_DEV))
        population.model.train()
        return loss.double().cpu()[None, :, None]

    def dev_losses(self, answers_EK: Tensor) -> tuple[float, float] | None:
        mean = float(answers_EK.sum()) / float(self.race.material.said_E[self.race.which_E].sum())
        return (mean, mean) if np.isfinite(mean) else None

    def _batch(self, rows: Rows, run: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        numbers = [int(rows.which_E[row]) for row in run]
        items = [rows.material.item(n, seeding.generator(self._seed, "row", step, n)) for n in numbers]
        read_RT = padded([item.read_T for item in items], IDS[PAD])
        said_RT = padded([item.said_T for item in items], NOT_SAID)
        return torch.from_numpy(read_RT).to(self._device), torch.from_numpy(said_RT).to(self._device)


def material(recipe: Recipe, tokens: Path, part: str, vocabulary: int, *, seed: int) -> Material:
    """A part as this family learns from it; the seed says which rows documents make."""
    shard = read(tokens, part)
    if recipe.family == "seq2seq":
        plain = np.flatnonzero(shard.answer_D == 0)
        stream = Stream(shard, plain.tolist(), length=taken_for(recipe.length), seed=seed)
        none = Shard(np.empty(0, np.uint16), np.zeros(1, np.int64), np.empty(0, np.int64))
        questions = read(tokens, "questions") if part == "train" else none
        return SpansAndQuestions(stream, questions, length=recipe.length, answer_length=recipe.answer_length)
    stream = Stream(shard, length=recipe.length, seed=seed)
    return NextTokens(stream) if recipe.family == "causal" else MaskedTokens(stream, vocabulary=vocabulary)


def train(recipe: Recipe, tokens: Path, tokenizer: Path, out: Path, *, device: str = "auto") -> dict[str, Any]:
    """Train to the end, and save model, tokenizer and `training.json`, in which all stages are with their losses."""
    where = resolve_device(device)
    learnt = load(tokenizer)
    vocabulary = learnt.get_vocab_size()
    population = Trained(fresh(recipe.family, recipe.size, seed=recipe.seed, vocabulary=vocabulary), where)
    earlier: list[dict[str, Any]] = []
    if recipe.after is not None:
        weights_PN, earlier = newest(Path(recipe.after))
        population.flat.values_PN.copy_(weights_PN)
        if (out / "begun.json").is_file():  # the other may have gone on since
            earlier = json.loads((out / "begun.json").read_text("utf-8"))["earlier"]
    # what goes on from another training reads rows in another order, packed and masked anew
    seed = seeding.derive(recipe.seed, *(stage["steps"] for stage in earlier)) % 2**32 if earlier else recipe.seed
    rows = material(recipe, tokens, "train", vocabulary, seed=seed)
    dev = material(recipe, tokens, "docs", vocabulary, seed=recipe.seed)
    objective = Foreseeing(
        Rows(rows, np.arange(len(rows.tokens_E))),
        Rows(dev, np.arange(min(recipe.dev_rows, len(dev.tokens_E)))),
        seed=seed,
        device=where,
    )
    plan = Plan(
        epochs=recipe.epochs,
        batch_size=recipe.batch_rows,
        seed=seed,
        evaluations=recipe.evaluations,
        patience=recipe.evaluations + 1,  # it goes to its end, whatever dev says
        schedule=recipe.schedule,
    )
    own = Settings(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_share=min(0.5, recipe.warmup_steps / plan.horizon(objective.train.sizes.rows)),
    )
    loop = Loop(population, objective, plan, [own])  # type: ignore[arg-type]  # it asks for no vectors of texts
    begun = {
        "recipe": vars(recipe),
        "tokens_per_step": float(rows.tokens_E.mean()) * recipe.batch_rows,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "begun.json").write_text(json.dumps({**begun, "earlier": earlier}, indent=1) + "\n", "utf-8")
    run_to_end(loop, out / "checkpoints", recipe.slices)
    [member] = loop.members
    if member.reason:
        raise SystemExit(f"pretraining: {recipe.family} {member.reason}. Lower --learning-rate.")
    population.model.eval().cpu()
    if hasattr(population.model.config, "sparse_prediction"):
        population.model.config.sparse_prediction = False  # who uses it wants logits of every token
    population.model.save_pretrained(out)
    of_family(learnt, recipe.family).save_pretrained(out)
    report = {
        "weights": population.trainable_parameters,
        "stages": [*earlier, stage_of(begun, loop.step, dataclasses.asdict(member))],
    }
    (out / "training.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report


def stage_of(begun: Mapping[str, Any], steps: int, member: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a training, ended or not."""
    return {
        "recipe": begun["recipe"],
        "device": begun["device"],
        "steps": steps,
        "tokens_read": round(begun["tokens_per_step"] * steps),
        "train": [member["train_steps"], member["train_losses"]],
        "dev": [member["dev_steps"], member["dev_losses"]],
    }


def newest(out: Path) -> tuple[Tensor, list[dict[str, Any]]]:
    """The weights of a training's newest checkpoint, and its stages so far."""
    found = load_checkpoint(out / "checkpoints", print)
    if found is None:
        raise SystemExit(f"pretraining: {out} has no checkpoint to start from; train there first.")
    _, tensors, meta = found
    begun = json.loads((out / "begun.json").read_text("utf-8"))
    return tensors["values_PN"], [*begun["earlier"], stage_of(begun, meta["step"], meta["members"][0])]


def run_to_end(loop: Loop, checkpoints: Path, slices: int) -> None:
    """From the newest checkpoint, where there is one."""
    found = load_checkpoint(checkpoints, print)
    if found is not None:
        _, tensors, meta = found
        loop.restore(_on(tensors, loop.device), meta)
    while loop.step < loop.horizon and loop.active:
        loop.advance(loop.step + max(1, loop.horizon // slices))
        tensors, meta = loop.state()
        save_checkpoint(checkpoints, loop.step, tensors, meta)
        [member] = loop.members
        print(
            f"step {loop.step} of {loop.horizon}: {member.train_losses[-1:]}, dev {member.dev_losses[-1:]}", flush=True
        )


def _on(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("causal", "masked", "seq2seq"))
    parser.add_argument("--size", choices=("toy", "small", "large"), default=Recipe.size)
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--schedule", choices=get_args(ScheduleName), default=Recipe.schedule)
    parser.add_argument("--after", help="the folder of a training to start from")
    parser.add_argument("--batch-rows", type=int, default=Recipe.batch_rows)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--tokens", type=Path, default=ROOT / "pretraining/build/tokens")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "pretraining/build/tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recipe = Recipe(
        family=given.family,
        size=given.size,
        epochs=given.epochs,
        schedule=given.schedule,
        after=given.after,
        batch_rows=given.batch_rows,
        learning_rate=given.learning_rate,
        seed=given.seed,
    )
    train(recipe, given.tokens, given.tokenizer, given.out)


if __name__ == "__main__":
    main()
