"""Sixteen LoRA candidates as one bracket against sixteen runs of Trainer + PEFT, one after another: time to a choice.

MiniLM on SST-2: 1,000 rows of train, 2 epochs, the whole dev part (872 rows) to choose on. The candidates differ in
rate, rank and dropout and are the same on all sides; all heads start at zero. Ours is the race of `tunewise fit`:
looks, halving, early stopping, shared evaluation, stacking where it is measured to pay. The peer trains all in full
and scores them on dev once, at its defaults and as its documents advise (bf16, batches grouped by length). Each side
is a process of its own, in turn, two threads; time is from texts to the chosen candidate, without imports. The choice
of each side is then scored on the test part (1,821 rows), which no side chooses on.

`--curves` trains all candidates to the end and leaves their dev losses at 20 steps, with dev accuracy as the score, in
`results/curves/`, for `replay.py`.

python benchmarks/bracket.py [--seeds 0 1] [--curves]
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_step import BATCH, EPOCHS, LABELS, Peer, peer_arguments, rows, sample

CANDIDATES, ROWS = 16, 1000
SIDES = ("tunewise", "trainer", "trainer tuned")
RESULTS = Path(__file__).parent / "results"
POINTS = 20


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
def _context(seed: int) -> Iterator[tuple[Any, Any]]:
    """An arena and a context with all of dev to race on; nothing of it is timed but what a run would do too."""
    from tunewise.config import Budget, DataConfig, Task
    from tunewise.methods.base import Context, Fold
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.runs import Run
    from tunewise.search.arena import Arena
    from tunewise.search.budget import Clock
    from tunewise.search.stopper import Stopper
    from tunewise.search.watch import Quiet
    from tunewise.types import Example

    base = load_base("bundled:minilm", device="cpu")
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


def ours(seed: int) -> dict[str, Any]:
    from tunewise.methods.lora import Lora
    from tunewise.models.load import load_base
    from tunewise.predictors.bundle import load_predictor
    from tunewise.search.trial import run_bracket
    from tunewise.types import Example, Finished

    base = load_base("bundled:minilm", device="cpu")
    started = time.perf_counter()
    with _context(seed) as (arena, context):
        trials = run_bracket(arena, Lora(), context, _configs(seed), name="race", halve=True)
        seconds = time.perf_counter() - started
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


def theirs(seed: int, *, tuned: bool) -> dict[str, Any]:
    import datasets
    import transformers

    from tunewise.models.load import describe_base

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(describe_base("bundled:minilm").path)
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
                scratch, epochs=EPOCHS, batch_size=BATCH, rate=each["learning_rate"], seed=seed, tuned=tuned
            )
            trainer = transformers.Trainer(
                model=Peer("lora", rank=each["rank"], dropout=each["dropout"]),
                args=arguments,
                train_dataset=train,
                processing_class=tokenizer,
                data_collator=transformers.DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
            dev_accuracy.append(scored(trainer, dev))
            if dev_accuracy[-1] > max([-1.0, *dev_accuracy[:-1]]):  # the first of equals, as `argmax` below
                best = trainer
        seconds = time.perf_counter() - started
        chosen = int(np.argmax(dev_accuracy))
        test_accuracy = scored(best, tokenized("test"))
    return {
        "seconds": seconds,
        "chosen": chosen,
        "dev_accuracy": dev_accuracy[chosen],
        "test_accuracy": test_accuracy,
        "all_dev_accuracy": dev_accuracy,
    }


def curves(seed: int) -> dict[str, Any]:
    """What a race would see of every candidate, [candidates, POINTS], trained to the end, and its dev accuracy."""
    from tunewise.evaluation.calibration import log_probabilities, scaled_losses, temperature
    from tunewise.methods.lora import Lora

    with _context(seed) as (_, context):
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


def run_side(side: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--seeds", str(seed)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in printed.split("\n") if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--side", choices=(*SIDES, "curves"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        seed = asked.seeds[0]
        sides = {"tunewise": ours, "curves": curves}
        result = sides[asked.side](seed) if asked.side in sides else theirs(seed, tuned=asked.side == "trainer tuned")
        print("RESULT " + json.dumps(result))
        return
    folder = RESULTS / ("curves" if asked.curves else "bracket")
    folder.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        path = folder / (f"lora-sst2-{seed}.json" if asked.curves else f"sst2-{seed}.json")
        if path.exists():
            continue
        if asked.curves:
            found = run_side("curves", seed)
        else:
            sides = {side: run_side(side, seed) for side in SIDES}
            seconds = sides["tunewise"]["seconds"]
            ratio = {side: sides[side]["seconds"] / seconds for side in SIDES[1:]}
            threads = torch.get_num_threads()
            found = {"candidates": candidates(seed), "threads": threads, "sides": sides, "ratio": ratio}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
