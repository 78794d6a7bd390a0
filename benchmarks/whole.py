"""Whole `fit` against an exhaustive grid and against Optuna driving Trainer + PEFT: time to a model, and its accuracy.

1,000 rows of train (a fifth of them dev, the same rows on all sides), the full test part, MiniLM. Passes over train
are the same on all sides (`EPOCHS`).

- tunewise: `tunewise fit` under a budget of minutes, as a user runs it; the whole process is timed.
- grid: every rung, its default and five more configurations from its space, each trained in full by this project's own
  loops, one after another; the best on dev is taken. So its ratio shows what the search saves, not what the steps do.
- optuna: 48 trials over `lora` and `full` with their rates, ranks, dropout and batch sizes, trained by Trainer + PEFT,
  TPE with the median pruner (Optuna's defaults), dev accuracy after every pass; tuned as Trainer's documents advise
  (bf16, batches grouped by length).

`track` is the seconds after each finished trial and the best dev accuracy until then, so that a peer that was as good
early can be read as such.

One file per set, seed and side in `results/whole/`; finished ones are kept. Machines are shared, so the sides of a cell
should run in one go.

python benchmarks/whole.py [--sets sst2 subj] [--seeds 0 1 2 3 4]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sets import SETS, data_root

RESULTS = Path(__file__).parent / "results" / "whole"
SIDES = ("tunewise", "grid", "optuna")
ROWS, DEV_SHARE, CONFIGS, TRIALS = 1000, 0.2, 6, 48
EPOCHS = {
    "contrastive": 4.0, "prompt_tuning": 6.0, "prefix_tuning": 4.0, "bitfit": 4.0, "ia3": 4.0, "adapter": 4.0,
    "lora": 4.0, "full": 3.0,
}  # fmt: skip
MINUTES = 4.0


def rows(name: str, part: str) -> list[dict[str, str]]:
    lines = (data_root() / name / part).read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def parts(name: str, seed: int) -> dict[str, list[dict[str, str]]]:
    whole = rows(name, "train.jsonl")
    picked = np.random.default_rng(seed).permutation(len(whole))[:ROWS]
    few = [whole[i] for i in picked]
    dev = round(DEV_SHARE * ROWS)
    return {"dev": few[:dev], "train": few[dev:], "test": rows(name, SETS[name].held_out)}


def task_of(name: str, seed: int, folder: Path) -> Path:
    for part, found in parts(name, seed).items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    task = {
        "name": name,
        "data": {part: str(folder / f"{file}.jsonl") for part, file in
                 (("train", "train"), ("dev", "dev"), ("held_out", "test"))},
        "metric": "accuracy",
        "labels": SETS[name].labels,
        "truncation": "keep_start",
        "margin": 0.005,
        "seed": seed,
        "budget": {"minutes": MINUTES},
        "settings": {rung: {"epochs": epochs} for rung, epochs in EPOCHS.items()},
    }  # fmt: skip
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return path


def ours(name: str, seed: int, folder: Path) -> dict[str, Any]:
    path = task_of(name, seed, folder)
    started = time.perf_counter()
    command = [sys.executable, "-m", "tunewise", "fit", str(path), "--out", str(folder / "run"), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    verdict = json.loads((folder / "run" / "verdict.json").read_text("utf-8"))
    chosen = next(row for row in verdict["rungs"] if row["method"] == verdict["chosen"]["method"])
    return {
        "seconds": seconds,
        "test_accuracy": chosen["held_out"]["score"],
        "chosen": chosen["method"],
        "trials": verdict["budget"]["spent"]["trials"],
    }


def grid(name: str, seed: int, folder: Path) -> dict[str, Any]:
    from tunewise.config import Task
    from tunewise.data.load import load_data
    from tunewise.methods import LADDER, get_method
    from tunewise.methods.base import Context, Fold, default_of, proposed, skip_reason
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.search.space import OptunaSpace

    task = Task.from_file(task_of(name, seed, folder))
    base = load_base("bundled:minilm", device="cpu")
    started = time.perf_counter()
    data = load_data(task)
    tokens = base.encode([example.texts for example in data.train], "keep_start").tokens
    best: tuple[float, Any, str] = (-1.0, None, "")
    count = 0
    track: list[tuple[float, float]] = []
    features = FeatureStore(base, "keep_start", (*data.train, *data.dev), None)
    for rung in LADDER:
        method = get_method(rung)
        context = Context(
            task=task,
            labels=data.labels,
            base=base,
            folds=(Fold(train=data.train, race=data.dev),),
            features=features,
            work=10**15,
            seed=seed,
            train_tokens=tokens,
        )
        if skip_reason(method, context) is not None:
            continue
        space, rng = OptunaSpace(seed, []), np.random.default_rng(seed)
        for config in [default_of(method, context), *proposed(method, context, space, rng, CONFIGS - 1)]:
            bracket = method.open(context, [config])
            bracket.advance(bracket.horizon)
            count += 1
            (said,) = bracket.predictions()
            score = float(np.mean([a.text == e.target for a, e in zip(said, data.dev, strict=True)])) if said else 0.0
            if score > best[0]:
                best = (score, bracket.predictor(0), rung)
            track.append((time.perf_counter() - started, best[0]))
            bracket.close()
    seconds = time.perf_counter() - started
    held_out = data.held_out.open()
    answers = best[1].predict(held_out)
    accuracy = float(np.mean([a.text == e.target for a, e in zip(answers, held_out, strict=True)]))
    return {"seconds": seconds, "test_accuracy": accuracy, "chosen": best[2], "trials": count, "track": track}


def optuna_trainer(name: str, seed: int, folder: Path) -> dict[str, Any]:
    import datasets
    import optuna
    import transformers
    from train_step import Peer, peer_arguments

    from tunewise.models.load import describe_base

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tokenizer = transformers.AutoTokenizer.from_pretrained(describe_base("bundled:minilm").path)
    whole = parts(name, seed)
    labels = sorted({row["label"] for row in whole["train"]})

    def tokenized(part: str) -> Any:
        found = {"text": [r["text"] for r in whole[part]], "labels": [labels.index(r["label"]) for r in whole[part]]}
        return datasets.Dataset.from_dict(found).map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=256), batched=True, remove_columns="text"
        )

    def right(said: Any) -> float:
        return float(np.mean(np.asarray(said.predictions).argmax(-1) == said.label_ids))

    started = time.perf_counter()
    train, dev = tokenized("train"), tokenized("dev")
    best: dict[str, Any] = {"score": -1.0}
    track: list[tuple[float, float]] = []

    class Report(transformers.TrainerCallback):
        def __init__(self, trial: Any) -> None:
            self.trial, self.pruned = trial, False

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            self.trial.report(metrics["eval_accuracy"], round(state.epoch))
            self.pruned = self.trial.should_prune()
            control.should_training_stop = control.should_training_stop or self.pruned

    def objective(trial: Any) -> float:
        method = trial.suggest_categorical("method", ["lora", "full"])
        low, high = (1e-4, 5e-3) if method == "lora" else (1e-5, 4e-4)
        rate = trial.suggest_float(f"{method}_rate", low, high, log=True)
        batch = trial.suggest_categorical("batch", [16, 32])
        kind: dict[str, Any] = {}
        if method == "lora":
            kind["rank"] = trial.suggest_categorical("rank", [8, 16, 32])
            kind["dropout"] = trial.suggest_categorical("dropout", [0.0, 0.1])
        transformers.set_seed(seed)
        arguments = peer_arguments(
            str(folder / "trainer"),
            epochs=EPOCHS[method],
            batch_size=batch,
            rate=rate,
            seed=seed,
            tuned=True,
            eval_strategy="epoch",
        )
        report = Report(trial)
        trainer = transformers.Trainer(
            model=Peer(method, labels=len(labels), **kind),
            args=arguments,
            train_dataset=train,
            eval_dataset=dev,
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda said: {"accuracy": float(np.mean(said.predictions.argmax(-1) == said.label_ids))},
            callbacks=[report],
        )
        trainer.train()
        if report.pruned:
            raise optuna.TrialPruned
        score = next(e["eval_accuracy"] for e in reversed(trainer.state.log_history) if "eval_accuracy" in e)
        if score > best["score"]:
            best.update(score=score, trainer=trainer, method=method)
        track.append((time.perf_counter() - started, best["score"]))
        return score

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=TRIALS)
    seconds = time.perf_counter() - started
    accuracy = right(best["trainer"].predict(tokenized("test")))
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    return {
        "seconds": seconds,
        "test_accuracy": accuracy,
        "chosen": best["method"],
        "trials": TRIALS,
        "pruned": pruned,
        "track": track,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["sst2", "subj"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        run = {"tunewise": ours, "grid": grid, "optuna": optuna_trainer}[asked.side]
        with tempfile.TemporaryDirectory() as scratch:
            print("RESULT " + json.dumps(run(asked.sets[0], asked.seeds[0], Path(scratch))))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for name in asked.sets:
            for side in SIDES:
                path = RESULTS / f"{name}-{seed}-{side}.json"
                if path.exists():
                    continue
                command = [sys.executable, __file__, "--side", side, "--sets", name, "--seeds", str(seed)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                line = next(line for line in printed.split("\n") if line.startswith("RESULT "))
                path.write_text(line.removeprefix("RESULT ") + "\n", encoding="utf-8")
                print(name, seed, side, line)


if __name__ == "__main__":
    main()
