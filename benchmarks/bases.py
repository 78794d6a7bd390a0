"""What pre-training is worth: `full` from a base, and from the same architecture at random weights.

The same rows of train, dev and test, the same settings on both sides, three seeds (of the order of rows and of the
random weights), and on each side the rate that does best on dev with the first seed. Labels are learnt by a head,
texts are written. A base that fills gaps is not asked for texts. `gap` is the mean difference over the seeds, with its
95 % t interval.

One result file for each base and set; finished ones are kept.

python benchmarks/bases.py [BASE ...] [--sets sst2 ...] [--seeds 3] [--results FOLDER]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sets import data_root

RESULTS = Path(__file__).parent / "results" / "bases"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "code_summary"
RATES = (1e-4, 3e-4, 1e-3)
ROWS = {"train": 500, "dev": 150, "held_out": 500}
"""Of labels; of texts `WRITTEN`, which take longer to be written."""
WRITTEN = {"train": 500, "dev": 50, "held_out": 60}
LABELS = ("sst2", "subj", "ag_news")
SETS: dict[str, dict[str, Any]] = {
    **{name: {"target": "label", "metric": "accuracy"} for name in LABELS},
    "code_summary": {
        "kind": "generate",
        "input": "code",
        "target": "summary",
        "instruction": "Say in one sentence what this Python function does.",
        "metric": "chrf",
    },
    "e2e_nlg": {
        "kind": "generate",
        "input": "mr",
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


def random_base(base: str, folder: Path, seed: int) -> str:
    """The architecture and the tokenizer of a base, with the random weights that transformers starts from."""
    import torch
    import transformers

    from tunewise.models.load import describe_base

    known = describe_base(base).path
    config = transformers.AutoConfig.from_pretrained(known, dtype="float32")
    torch.manual_seed(seed)
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(known).save_pretrained(folder)
    return str(folder)


def one(name: str, base: str, parts: dict[str, str], rate: float, seed: int) -> dict[str, Any]:
    """Dev and held_out scores of `full` at one rate."""
    import tunewise

    task = {
        "name": name,
        "data": parts,
        "truncation": "keep_start",
        "models": [base],
        "methods": ["majority", "full"],
        "settings": {"full": {"learning_rate": rate, "batch_size": 16, "epochs": 3.0}},
        "seed": seed,
        "budget": {"trials": 2},
        **SETS[name],
    }
    with tempfile.TemporaryDirectory() as scratch:
        verdict = tunewise.fit(task, out=f"{scratch}/run").verdict
    [row] = [row for row in verdict["rungs"] if row["method"] == "full"]
    if row["held_out"] is None:
        raise SystemExit(f"bases: full was not measured on {name} from {base}: {row['reason']}")
    return {
        "rate": rate,
        "dev": row["dev"]["score"],
        "held_out": row["held_out"]["score"],
        "environment": verdict["environment"],
    }


def compare(base: str, name: str, seeds: int) -> dict[str, Any]:
    """Both sides over the seeds."""
    import torch

    found: dict[str, list[dict[str, Any]]] = {"pre-trained": [], "random": []}
    with tempfile.TemporaryDirectory() as scratch:
        parts = {part: f"{scratch}/{part}.jsonl" for part in ROWS}
        for part, path in parts.items():
            Path(path).write_text("\n".join(lines_of(name, part)) + "\n", "utf-8")
        for seed in range(seeds):
            folders = {"pre-trained": base, "random": random_base(base, Path(scratch) / f"base{seed}", seed)}
            for side, folder in folders.items():
                rates = [found[side][0]["rate"]] if found[side] else RATES
                tried = [one(name, folder, parts, rate, seed) for rate in rates]
                found[side].append(max(tried, key=lambda each: each["dev"]))
                print(f"{base} {name} {side} {seed}: {found[side][-1]['held_out']:.4f}", flush=True)
    gaps = [own["held_out"] - other["held_out"] for own, other in zip(*found.values(), strict=True)]
    [*_, environment] = [each.pop("environment") for side in found.values() for each in side]
    environment["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        **{"base": base, "set": name, "metric": SETS[name]["metric"], "rows": len(lines_of(name, "train"))},
        **{"sides": found, "gap": gap(gaps), "environment": environment},
    }


def gap(gaps: list[float]) -> dict[str, float]:
    """Mean and 95 % t interval."""
    from scipy.stats import t

    mean = statistics.mean(gaps)
    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", default=["bundled:causal", "bundled:masked", "bundled:seq2seq"])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    asked.results.mkdir(parents=True, exist_ok=True)
    for base in asked.bases:
        for name in asked.sets:
            if base.endswith("masked") and name not in LABELS:
                continue
            path = asked.results / f"{Path(base.replace(':', '/')).name}-{name}.json"
            if not path.exists():
                path.write_text(json.dumps(compare(base, name, asked.seeds), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
