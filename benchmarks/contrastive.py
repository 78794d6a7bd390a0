"""The contrastive rung against SetFit: the same base, the same rows, accuracy on the same test rows, and time.

Ten draws of 8 rows a label from three sets, three draws of 64 rows a label from two; each side in a process of its
own, in turn, with as many threads (`TUNEWISE_BENCH_THREADS`, two). Ours runs at its default config; SetFit at its
defaults (all pairs, oversampled, one epoch) and tuned as its documents advise (`num_iterations=20`). Time is from texts
to a fitted head, without imports and loading; neither side looks at dev. One result file per cell, finished ones are
kept.

SetFit must import beside this project's transformers: `pip install setfit==1.2.0`, or, in an environment of its own,
name that one's interpreter in `SETFIT_PYTHON`; it needs this project's dependencies too.

python benchmarks/contrastive.py [SET ...] [--shots 8] [--seeds 10]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from sets import data_root

CELLS = (
    *((name, 8, seed) for name in ("sst2", "subj", "ag_news") for seed in range(10)),
    *((name, 64, seed) for name in ("sst2", "subj") for seed in range(3)),
)
SIDES = ("tunewise", "setfit", "setfit tuned")
TEST_ROWS = 1000
THREADS = int(os.environ.get("TUNEWISE_BENCH_THREADS", "2"))
RESULTS = Path(__file__).parent / "results" / "contrastive"


def rows(name: str, part: str) -> list[dict[str, str]]:
    lines = (data_root() / name / f"{part}.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def cell(name: str, shots: int, seed: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Train rows, `shots` of each label, and the test rows, the same in every cell of a set."""
    rng = np.random.default_rng(seed)
    whole = rows(name, "train")
    order = rng.permutation(len(whole))
    train = [
        whole[i]
        for label in sorted({row["label"] for row in whole})
        for i in [i for i in order if whole[i]["label"] == label][:shots]
    ]
    test = rows(name, "test")
    picked = np.random.default_rng(0).permutation(len(test))[:TEST_ROWS]
    return train, [test[i] for i in picked]


def ours(name: str, shots: int, seed: int) -> dict[str, Any]:
    import sklearn.linear_model  # noqa: F401 - the head's, which the peer imports before the clock too
    import torch

    from tunewise.config import Budget, DataConfig, Task
    from tunewise.methods.base import Context, Fold
    from tunewise.methods.contrastive import Contrastive
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.types import Example

    torch.set_num_threads(THREADS)
    base = load_base("bundled:minilm", device="cpu")
    train, test = cell(name, shots, seed)
    examples = tuple(Example(id=str(i), fields={"text": r["text"]}, target=r["label"]) for i, r in enumerate(train))
    started = time.perf_counter()
    context = Context(
        task=Task(data=DataConfig(train="x.csv"), budget=Budget(work=1), truncation="keep_start"),
        labels=tuple(sorted({row["label"] for row in train})),
        base=base,
        folds=(Fold(train=examples, race=()),),  # as a refit: no evaluations, a head at the end
        features=FeatureStore(base, "keep_start", examples, None),
        work=10**15,
        seed=seed,
        train_tokens=base.encode([example.texts for example in examples], "keep_start").tokens,
    )
    method = Contrastive()
    config = method.default(context)
    bracket = method.open(context, [config])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    seconds = time.perf_counter() - started
    answers = predictor.predict([Example(id="", fields={"text": row["text"]}) for row in test])
    right = [answer.text == row["label"] for answer, row in zip(answers, test, strict=True)]
    return {"seconds": seconds, "accuracy": float(np.mean(right)), "steps": bracket.horizon}


def theirs(name: str, shots: int, seed: int, *, tuned: bool) -> dict[str, Any]:
    """Needs setfit and nothing of this project but its base's folder."""
    import datasets
    import setfit
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    train, test = cell(name, shots, seed)
    labels = sorted({row["label"] for row in train})
    model = setfit.SetFitModel.from_pretrained(os.environ["TUNEWISE_BASE_PATH"], labels=labels, device="cpu")
    model.model_body.max_seq_length = int(os.environ["TUNEWISE_BASE_TOKENS"])
    options: dict[str, Any] = {"num_iterations": 20} if tuned else {}
    started = time.perf_counter()
    table = datasets.Dataset.from_list([{"text": r["text"], "label": labels.index(r["label"])} for r in train])
    arguments = setfit.TrainingArguments(
        seed=seed, report_to="none", save_strategy="no", show_progress_bar=False, **options
    )
    trainer = setfit.Trainer(model=model, args=arguments, train_dataset=table)
    trainer.train()
    seconds = time.perf_counter() - started
    answers = model.predict([row["text"] for row in test], show_progress_bar=False)
    right = [str(answer) == row["label"] for answer, row in zip(answers, test, strict=True)]
    return {"seconds": seconds, "accuracy": float(np.mean(right)), "setfit": setfit.__version__}


def run_side(side: str, name: str, shots: int, seed: int) -> dict[str, Any]:
    """One side of a cell in a process of its own."""
    from tunewise.models.load import describe_base

    base = describe_base("bundled:minilm")
    python = sys.executable if side == "tunewise" else os.environ.get("SETFIT_PYTHON", sys.executable)
    command = [python, __file__, "--side", side, name, "--shots", str(shots), "--seed", str(seed)]
    settings = {"TUNEWISE_BASE_PATH": base.path, "TUNEWISE_BASE_TOKENS": str(base.max_tokens)}
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    # the peer leaves its checkpoints in the folder it runs in
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=scratch, env={**os.environ, **settings, **threads}
        )
    if done.returncode != 0:
        raise SystemExit(f"contrastive: {side} failed on {name}, {shots} rows a label, seed {seed}:\n{done.stderr}")
    line = next(line for line in done.stdout.split("\n") if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By set and shots: ratio of median times, and the mean paired difference in accuracy with its 95 % t interval."""
    from scipy.stats import t

    found = []
    for name, shots in sorted({(c["set"], c["shots"]) for c in cells}):
        alike = [c["sides"] for c in cells if (c["set"], c["shots"]) == (name, shots)]
        median = {side: statistics.median(c[side]["seconds"] for c in alike) for side in SIDES}
        accuracy = {side: statistics.mean(c[side]["accuracy"] for c in alike) for side in SIDES}
        row = {"set": name, "shots": shots, "draws": len(alike), "median_seconds": median, "mean_accuracy": accuracy}
        for side in SIDES[1:]:
            gaps = np.array([c["tunewise"]["accuracy"] - c[side]["accuracy"] for c in alike])
            row[f"ratio to {side}"] = median[side] / median["tunewise"]
            row[f"difference to {side}"] = float(gaps.mean())
            if len(gaps) > 1:
                half = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5)
                row[f"interval to {side}"] = [float(gaps.mean()) - half, float(gaps.mean()) + half]
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[])
    parser.add_argument("--shots", type=int, help="only cells with this many rows a label")
    parser.add_argument("--seeds", type=int, default=10, help="only this many draws of each")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        (name,) = asked.sets
        if asked.side == "tunewise":
            result = ours(name, asked.shots, asked.seed)
        else:
            result = theirs(name, asked.shots, asked.seed, tuned=asked.side == "setfit tuned")
        print("RESULT " + json.dumps(result))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, shots, seed in CELLS:
        if (asked.sets and name not in asked.sets) or asked.shots not in (None, shots) or seed >= asked.seeds:
            continue
        path = RESULTS / f"{name}-{shots}-{seed}.json"
        if not path.exists():
            order = SIDES[seed % len(SIDES) :] + SIDES[: seed % len(SIDES)]
            sides = {side: run_side(side, name, shots, seed) for side in order}
            one = {"set": name, "shots": shots, "seed": seed, "threads": THREADS, "sides": sides}
            path.write_text(json.dumps(one, indent=1) + "\n", encoding="utf-8")
    files = sorted(path for path in RESULTS.glob("*.json") if path.name != "summary.json")
    table = summary([json.loads(path.read_text("utf-8")) for path in files])
    (RESULTS / "summary.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
