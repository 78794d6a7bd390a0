"""What pre-training is worth: `full` from a base, and from the same architecture at random weights.

The same rows of train, dev and test, the same settings on both sides, three seeds (of the order of rows and of the
random weights), and on each side the rate that does best on dev. Labels are learnt by a head, texts are written. A
base that fills gaps is not asked for texts. `summary.json` has the mean difference over the seeds, with its 95 % t
interval.

One result file for each base, set and seed; finished ones are kept.

python benchmarks/bases.py [BASE ...] [--sets sst2 ...] [--seeds 3] [--results FOLDER]
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sets import data_root
from untrained import random_base

RESULTS = Path(__file__).parent / "results" / "bases"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "code_summary"
RATES = (3e-4, 1e-3)
SIDES = ("pre-trained", "random")
ROWS = {"train": 400, "dev": 150, "held_out": 500}
"""Of labels; of texts `WRITTEN`, which take longer to be written."""
WRITTEN = {"train": 300, "dev": 40, "held_out": 60}
LABELS = ("sst2", "subj", "ag_news")
INPUTS = {**dict.fromkeys(LABELS, ("text",)), "code_summary": ("code",), "e2e_nlg": ("mr",)}
SETS: dict[str, dict[str, Any]] = {
    **{name: {"target": "label", "metric": "accuracy"} for name in LABELS},
    "code_summary": {
        "kind": "generate",
        "input": ("code",),
        "target": "summary",
        "instruction": "Say in one sentence what this Python function does.",
        "metric": "chrf",
    },
    "e2e_nlg": {
        "kind": "generate",
        "input": ("mr",),
        "target": "ref",
        "instruction": "Describe the restaurant.",
        "metric": "chrf",
    },
}


def lines_of(name: str, part: str) -> list[str]:
    """Rows of a part; sets without a dev part of their own give the end of train."""
    if name == "code_summary":
        if not (EXAMPLE / "train.jsonl").is_file():
            subprocess.run([sys.executable, EXAMPLE / "build.py"], check=True)
        path, given = EXAMPLE / f"{part}.jsonl", part
    else:
        given = {"train": "train", "dev": "train", "held_out": "dev" if name == "e2e_nlg" else "test"}[part]
        path = data_root() / name / f"{given}.jsonl"
    lines = [line for line in path.read_text("utf-8").split("\n") if line]
    order = np.random.default_rng(0).permutation(len(lines))
    if given != part:  # from the other end
        order = order[::-1]
    limit = (WRITTEN if "kind" in SETS[name] else ROWS)[part]
    return [lines[i] for i in order[:limit]]


def one(name: str, base: str, parts: dict[str, list[dict[str, str]]], rate: float, seed: int) -> dict[str, float]:
    """Dev and held_out scores of `full` at one rate, trained as a finalist is: to its end, with no look at dev."""
    from tunewise.config import Budget, DataConfig, Task
    from tunewise.methods.base import Context, Fold
    from tunewise.methods.full import Full, FullConfig
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.types import Example

    task = Task(data=DataConfig(train="-"), budget=Budget(work=1), truncation="keep_start", **SETS[name])
    rows = {
        part: tuple(
            Example(id=f"{part}{i}", fields={field: row[field] for field in INPUTS[name]}, target=row[task.target])
            for i, row in enumerate(own)
        )
        for part, own in parts.items()
    }
    loaded = load_base(base)
    context = Context(
        task=task,
        labels=() if task.kind == "generate" else tuple(sorted({row["label"] for row in parts["train"]})),
        base=loaded,
        folds=(Fold(train=rows["train"], race=()),),
        features=FeatureStore(loaded, "keep_start", rows["train"], None),
        work=10**15,
        seed=seed,
        train_tokens=loaded.encode([example.texts for example in rows["train"]], "keep_start").tokens,
    )
    bracket = Full().open(context, [FullConfig(learning_rate=rate, batch_size=16, epochs=3.0)])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    scores = {}
    for part in ("dev", "held_out"):
        answers = [answer.text for answer in predictor.predict(rows[part])]
        scores[part] = score(name, answers, [row[task.target] for row in parts[part]])
    bracket.close()
    return {"rate": rate, **scores}


def score(name: str, answers: list[str], right: list[str]) -> float:
    """Accuracy, or chrF as a share of one."""
    if name in LABELS:
        return statistics.mean(answer == each for answer, each in zip(answers, right, strict=True))
    import sacrebleu

    return float(sacrebleu.corpus_chrf(answers, [right]).score) / 100


def compare(base: str, name: str, seed: int) -> dict[str, Any]:
    """Both sides of a cell, each at the rate that does best on dev."""
    import torch

    parts = {part: [json.loads(line) for line in lines_of(name, part)] for part in ROWS}
    cell: dict[str, Any] = {"base": base, "set": name, "seed": seed, "rows": len(parts["train"])}
    cell |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "sides": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for side in SIDES:
            folder = base if side == "pre-trained" else random_base(base, Path(scratch) / "base", seed)
            tried = [one(name, folder, parts, rate, seed) for rate in RATES]
            cell["sides"][side] = max(tried, key=lambda each: each["dev"])
            print(f"{base} {name} {seed} {side}: {cell['sides'][side]}", flush=True)
    return cell


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By base and set: both means, and the mean difference over seeds with its 95 % t interval."""
    found = []
    for base, name in sorted({(cell["base"], cell["set"]) for cell in cells}):
        own = [cell["sides"] for cell in cells if (cell["base"], cell["set"]) == (base, name)]
        scores = {side: [sides[side]["held_out"] for sides in own] for side in SIDES}
        gaps = [one - other for one, other in zip(*scores.values(), strict=True)]
        means = {side: statistics.mean(each) for side, each in scores.items()}
        found.append(
            {"base": base, "set": name, "seeds": len(own), "metric": SETS[name]["metric"], **means} | gap(gaps)
        )
    return found


def gap(gaps: list[float]) -> dict[str, Any]:
    """The mean, and its interval where there is more than one."""
    from scipy.stats import t

    mean = statistics.mean(gaps)
    if len(gaps) == 1:
        return {"gap": mean, "interval": None}
    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return {"gap": mean, "interval": [mean - half, mean + half]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", default=["bundled:causal", "bundled:masked"])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    from tunewise.models.load import describe_base

    asked.results.mkdir(parents=True, exist_ok=True)
    for base, name, seed in itertools.product(asked.bases, asked.sets, range(asked.seeds)):
        path = asked.results / f"{Path(base.replace(':', '/')).name}-{name}-{seed}.json"
        if path.exists() or (name not in LABELS and describe_base(base).family == "masked"):
            continue
        path.write_text(json.dumps(compare(base, name, seed), indent=1) + "\n", encoding="utf-8")
    files = sorted(path for path in asked.results.glob("*.json") if path.name != "summary.json")
    table = summary([json.loads(path.read_text("utf-8")) for path in files])
    (asked.results / "summary.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
