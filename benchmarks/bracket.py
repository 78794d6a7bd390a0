"""Sixteen LoRA candidates as one bracket against sixteen runs of Trainer + PEFT, one after another: time to a choice.

MiniLM on SST-2: 1,000 rows of train, 2 epochs, the whole dev part (872 rows) to choose on. The candidates differ in
rate, rank and dropout and are the same on all sides; all heads start at zero. Ours is the race of `tunewise fit`:
looks, halving, early stopping, shared evaluation, stacking where it is measured to pay. The peer trains all in full
and scores them on dev once, at its defaults and as its documents advise (bf16, batches grouped by length). Each side
is a process of its own, in turn, two threads; time is from texts to the chosen candidate, without imports. The choice
of each side is then scored on the test part (1,821 rows), which no side chooses on. `--device cuda`: all sides on one
GPU, which has multiplied once before the clock starts; the tuned peer then reads dev in batches of 256.

`--curves` trains all candidates to the end and leaves their dev losses at 20 steps, with dev accuracy as the score, in
`results/curves/`, for `replay.py`.

python benchmarks/bracket.py [--seeds 0 1] [--curves] [--device cuda] [--base FOLDER] [--results FOLDER]
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import found_by
from train_step import BATCH, EPOCHS, LABELS, Peer, peer_arguments, rows, sample

CANDIDATES, ROWS = 16, 1000
SIDES = ("tunewise", "trainer", "trainer tuned")
RESULTS = Path(__file__).parent / "results"
POINTS = 20


@dataclass(frozen=True)
class Place:
    """What is trained, and where."""

    base: str
    device: str

    def load(self) -> Any:
        """The base, on a device that has multiplied before: neither it nor its libraries are loaded on the clock."""
        from tunewise.models.load import load_base

        for dtype in (torch.float32, torch.bfloat16):
            square = torch.ones(64, 64, dtype=dtype, device=self.device)
            (square @ square).sum().item()
        return load_base(self.base, device=self.device)

    def seconds(self, since: float) -> float:
        """All that was begun on the device included."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - since

    @property
    def machine(self) -> str:
        return "cpu" if self.device == "cpu" else torch.cuda.get_device_name()


def candidates(seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "learning_rate": float(10 ** rng.uniform(-4, -1.8)),
            "rank": int(rng.choice([4, 8, 16])),
            "dropout": float(rng.choice([0.0, 0.1])),
        }
        for _ in range(CANDIDATES)
    ]


def parts(seed: int) -> dict[str, tuple[list[str], np.ndarray]]:
    texts, targets = sample(seed)
    return {"train": (texts[:ROWS], targets[:ROWS]), "dev": rows("dev"), "test": rows("test")}


def accuracy(answers: list[str], targets: np.ndarray) -> float:
    return float(np.mean([answer == LABELS[target] for answer, target in zip(answers, targets, strict=True)]))


@contextlib.contextmanager
def _context(seed: int, base: Any) -> Iterator[tuple[Any, Any]]:
    """An arena and a context with all of dev to race on; nothing of it is timed but what a run would do too."""
    from tunewise.config import Budget, DataConfig, Task
    from tunewise.methods.base import Context, Fold
    from tunewise.models.embed import FeatureStore
    from tunewise.runs import Run
    from tunewise.search.arena import Arena
    from tunewise.search.budget import Clock
    from tunewise.search.stopper import Stopper
    from tunewise.search.watch import Quiet
    from tunewise.types import Example

    whole = parts(seed)
    train, race = (
        tuple(
            Example(id=f"{name}:{i}", fields={"text": text}, target=LABELS[target])
            for i, (text, target) in enumerate(zip(*whole[name], strict=True))
        )
        for name in ("train", "dev")
    )
    task = Task(
        data=DataConfig(train="x.csv"), metric="accuracy", budget=Budget(work=1), truncation="keep_start", dtype="auto"
    )
    context = Context(
        task=task,
        labels=LABELS,
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", (*train, *race), None),
        work=10**15,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run") as run:
        targets = [str(example.target) for example in race]
        yield Arena(run, task, Stopper(Clock(), float("inf")), Quiet(), targets), context


def _configs(seed: int) -> list[Any]:
    from tunewise.methods.lora import LoraConfig

    return [
        LoraConfig(**each, alpha=2.0 * each["rank"], epochs=EPOCHS, batch_size=BATCH, head_init="zeros")
        for each in candidates(seed)
    ]


def ours(seed: int, place: Place) -> dict[str, Any]:
    from tunewise.methods.lora import Lora
    from tunewise.predictors.bundle import load_predictor
    from tunewise.search.trial import run_bracket
    from tunewise.types import Example, Finished

    base = place.load()
    started = time.perf_counter()
    with _context(seed, base) as (arena, context):
        trials = run_bracket(arena, Lora(), context, _configs(seed), name="race", halve=True)
        seconds = place.seconds(started)
        predictor = load_predictor(arena.run.folder / "trials" / "race" / "predictor", lambda _: base)
        texts, targets = parts(seed)["test"]
        said = predictor.predict([Example(id=str(i), fields={"text": text}) for i, text in enumerate(texts)])
        layout = arena.run.ledger.recall("layout", "race")
    chosen = next(i for i, trial in enumerate(trials) if isinstance(trial, Finished) and trial.folder)
    best = trials[chosen]
    assert isinstance(best, Finished)
    return {
        "seconds": seconds,
        "chosen": chosen,
        "dev_accuracy": best.score,
        "test_accuracy": accuracy([answer.text for answer in said], targets),
        "finished": [i for i, trial in enumerate(trials) if isinstance(trial, Finished)],
        "work_share": sum(trial.work for trial in trials) / (CANDIDATES * best.work),
        "layout": layout,
        "ends": [getattr(trial, "reason", None) for trial in trials],
    }


def theirs(seed: int, place: Place, *, tuned: bool) -> dict[str, Any]:
    import datasets
    import transformers

    from tunewise.models.load import describe_base

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(describe_base(place.base).path)
    place.load()
    whole = parts(seed)

    def tokenized(name: str) -> Any:
        texts, targets = whole[name]
        table = datasets.Dataset.from_dict({"text": texts, "labels": targets.tolist()})
        return table.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=256), batched=True, remove_columns="text"
        )

    def scored(trainer: Any, part: Any) -> float:
        said = trainer.predict(part)
        # Trainer groups by length when it predicts too, so its own order of targets is the one to compare with
        return float(np.mean(np.asarray(said.predictions).argmax(-1) == said.label_ids))

    started = time.perf_counter()
    train, dev = tokenized("train"), tokenized("dev")
    dev_accuracy: list[float] = []
    best: Any = None
    with tempfile.TemporaryDirectory() as scratch:
        for each in candidates(seed):
            transformers.set_seed(seed)
            arguments = peer_arguments(
                scratch,
                epochs=EPOCHS,
                batch_size=BATCH,
                rate=each["learning_rate"],
                seed=seed,
                tuned=tuned,
                device=place.device,
            )
            trainer = transformers.Trainer(
                model=Peer("lora", rank=each["rank"], dropout=each["dropout"], base=place.base),
                args=arguments,
                train_dataset=train,
                processing_class=tokenizer,
                data_collator=transformers.DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
            dev_accuracy.append(scored(trainer, dev))
            if dev_accuracy[-1] > max([-1.0, *dev_accuracy[:-1]]):  # the first of equals, as `argmax` below
                best = trainer
        seconds = place.seconds(started)
        chosen = int(np.argmax(dev_accuracy))
        test_accuracy = scored(best, tokenized("test"))
    return {
        "seconds": seconds,
        "chosen": chosen,
        "dev_accuracy": dev_accuracy[chosen],
        "test_accuracy": test_accuracy,
        "all_dev_accuracy": dev_accuracy,
    }


def curves(seed: int, place: Place) -> dict[str, Any]:
    """What a race would see of every candidate, [candidates, POINTS], trained to the end, and its dev accuracy."""
    from tunewise.evaluation.calibration import log_probabilities, scaled_losses, temperature
    from tunewise.methods.lora import Lora

    with _context(seed, place.load()) as (_, context):
        bracket = Lora().open(context, _configs(seed))
        rows = tuple(context.watched(context.race))
        target_E = context.target_indices([context.race[row] for row in rows])
        losses = []
        for point in range(1, POINTS + 1):
            bracket.advance(round(point * bracket.horizon / POINTS))
            losses.append([])
            for answers in bracket.predictions(rows):
                if not answers:  # it diverged
                    losses[-1].append(1e3)
                    continue
                log_EL = log_probabilities(answers, LABELS)
                losses[-1].append(float(scaled_losses(log_EL, target_E, temperature(log_EL, target_E)).mean()))
        target = [str(example.target) for example in context.fold.race]
        hits = [
            100 * float(np.mean([answer.text == label for answer, label in zip(row, target, strict=True)]))
            if row
            else 0.0
            for row in bracket.predictions()
        ]
        steps = bracket.horizon
    losses_by_member = np.array(losses).T.tolist()
    return {"losses": losses_by_member, "scores": hits, "steps": steps, "candidates": candidates(seed)}


def run_side(side: str, seed: int, place: Place) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--seeds", str(seed)]
    command += ["--device", place.device, "--base", place.base]
    return found_by(command, who=f"bracket: {side}", threads=torch.get_num_threads())


def measure(seed: int, place: Place) -> dict[str, Any]:
    """All sides in turn."""
    sides = {side: run_side(side, seed, place) for side in SIDES}
    return {
        "candidates": candidates(seed),
        "machine": place.machine,
        "torch": torch.__version__,
        "base": place.base,
        "threads": torch.get_num_threads(),
        "sides": sides,
        "ratio": {side: sides[side]["seconds"] / sides["tunewise"]["seconds"] for side in SIDES[1:]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--base", default="bundled:minilm", help="of both sides; a folder, too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=(*SIDES, "curves"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    place = Place(asked.base, asked.device)
    if asked.side:
        seed = asked.seeds[0]
        if asked.side in (sides := {"tunewise": ours, "curves": curves}):
            result = sides[asked.side](seed, place)
        else:
            result = theirs(seed, place, tuned=asked.side == "trainer tuned")
        print("RESULT " + json.dumps(result))
        return
    folder = asked.results / ("curves" if asked.curves else "bracket")
    folder.mkdir(parents=True, exist_ok=True)
    where = "" if asked.device == "cpu" else f"{asked.device}-"
    for seed in asked.seeds:
        path = folder / (f"lora-sst2-{where}{seed}.json" if asked.curves else f"sst2-{where}{seed}.json")
        if path.exists():
            continue
        found = run_side("curves", seed, place) if asked.curves else measure(seed, place)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
