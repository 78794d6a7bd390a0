"""The README's tables, from the result files; `--write` puts them there, and a test compares."""

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from scipy.stats import t

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"
NAMES = {
    "banking77": "BANKING77", "sst2": "SST-2", "subj": "Subj", "sms_spam": "SMS spam", "sst5": "SST-5", "cola": "CoLA",
    "ag_news": "AG News",
}  # fmt: skip


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def ladder_table() -> list[str]:
    """Held-out accuracy of every rung's best candidate on every set that was run."""
    verdicts = {name: verdict for key, name in NAMES.items() if (verdict := read(f"ladder-{key}")) is not None}
    rungs = list(dict.fromkeys(row["method"] for verdict in verdicts.values() for row in verdict["rungs"]))
    lines = [
        "Held-out accuracy in % on the data sets' own test parts, `bundled:minilm`, seed 0; the chosen rung is bold, "
        "`*` marks rungs that were not searched beyond their default, - those that did not fit the budget.",
        "",
        "| data (train / held_out) | " + " | ".join(f"`{rung}`" for rung in rungs) + " | budget, taken |",
        "|---|" + "---|" * (len(rungs) + 1),
    ]
    for name, verdict in verdicts.items():
        cells = []
        rows = {row["method"]: row for row in verdict["rungs"]}
        for rung in rungs:
            if rung not in rows:
                cells.append("")
                continue
            row = rows[rung]
            score = row["held_out"]
            text = "-" if score is None else f"{100 * score['score']:.1f}"
            text += "*" if row["under_searched"] else ""
            cells.append(f"**{text}**" if rung == verdict["chosen"]["method"] else text)
        asked, spent = verdict["budget"]["asked"]["minutes"], verdict["budget"]["spent"]["minutes"]
        sizes = f"{verdict['n']['train']:,} / {verdict['n']['held_out']:,}"
        lines.append(f"| {name} ({sizes}) | " + " | ".join(cells) + f" | {asked:g} min, {spent:.1f} |")
    return lines


def cells() -> list[tuple[str, str, dict[str, Any]]]:
    """Of every climb that was run: data, size ("8", "64" rows per class, or "all") and verdict."""
    found = [(key, "all", verdict) for key in NAMES if (verdict := read(f"ladder-{key}")) is not None]
    for path in sorted((RESULTS / "shots").glob("*.json")):
        key, shots, _ = path.stem.rsplit("-", 2)
        found.append((key, shots, json.loads(path.read_text("utf-8"))))
    return found


def held_out(verdict: dict[str, Any], method: str) -> float | None:
    """A rung's score in points, where it has one."""
    row = next((row for row in verdict["rungs"] if row["method"] == method), None)
    return None if row is None or row["held_out"] is None else 100 * row["held_out"]["score"]


def mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def shown(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.1f}"


def shots_table() -> list[str]:
    """Mean held-out accuracy over draws of a few rows per class."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, size, verdict in cells():
        if size != "all":
            groups.setdefault((key, size), []).append(verdict)
    if not groups:
        return []
    rungs = list(dict.fromkeys(row["method"] for group in groups.values() for v in group for row in v["rungs"]))
    rungs.remove("majority")
    lines = [
        "",
        "With a few rows per class, budget 2 minutes; accuracy in % on 1,000 rows of the test part, mean over the "
        "draws in which the rung had its turn. `chosen` is what the verdicts chose.",
        "",
        "| data, rows per class (draws) | chosen | " + " | ".join(f"`{rung}`" for rung in rungs) + " |",
        "|---|" + "---|" * (len(rungs) + 1),
    ]
    for (key, size), group in sorted(groups.items(), key=lambda item: (int(item[0][1]), item[0][0])):
        chosen = mean_of([held_out(verdict, verdict["chosen"]["method"]) for verdict in group])
        scores = [shown(mean_of([held_out(verdict, rung) for verdict in group])) for rung in rungs]
        lines.append(f"| {NAMES[key]}, {size} ({len(group)}) | **{shown(chosen)}** | " + " | ".join(scores) + " |")
    return lines


FIXED = ("linear_probe", "contrastive", "lora", "full")


def regret_table() -> list[str]:
    """What the choice loses against the best rung of its cell, and gains over always taking one rung."""
    lines = [
        "",
        "Points of held-out accuracy that the chosen rung loses against the best rung of its climb, and gains over one "
        "rung taken always (95 % intervals over climbs).",
        "",
        "| climbs | regret | " + " | ".join(f"over always `{rung}`" for rung in FIXED) + " |",
        "|---|" + "---|" * (len(FIXED) + 1),
    ]
    for size, words in (("8", "8 rows per class"), ("64", "64 rows per class"), ("all", "all of train")):
        group = [verdict for _, found, verdict in cells() if found == size]
        if len(group) < 2:
            continue
        own = [held_out(verdict, verdict["chosen"]["method"]) or 0.0 for verdict in group]
        best = [max(held_out(v, row["method"]) or 0.0 for row in v["rungs"]) for v in group]
        gains = [
            [a - b for a, v in zip(own, group, strict=True) if (b := held_out(v, rung)) is not None] for rung in FIXED
        ]
        regret = with_interval([b - a for a, b in zip(own, best, strict=True)])
        lines.append(
            f"| {words} ({len(group)}) | {regret} | " + " | ".join(with_interval(g, "+") for g in gains) + " |"
        )
    return lines if len(lines) > 5 else []


def with_interval(values: list[float], sign: str = "") -> str:
    """Mean and its 95 % t interval."""
    if len(values) < 2:
        return shown(mean_of(list(values)), sign)
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return f"{mean:{sign}.1f} [{mean - half:{sign}.1f}, {mean + half:{sign}.1f}]"


def contrastive_table() -> list[str]:
    found = read("contrastive/summary")
    if not found:
        return []
    lines = [
        "",
        "`contrastive` against SetFit 1.2 on the same rows; differences of accuracy in points are paired over draws "
        "(95 % intervals). Tuned: `num_iterations=20`.",
        "",
        "| data, rows per class (draws) | accuracy | minus SetFit | minus SetFit tuned | times faster | tuned |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        gaps = []
        for side in ("setfit", "setfit tuned"):
            low, high = row.get(f"interval to {side}", (float("nan"), float("nan")))
            gaps.append(f"{100 * row[f'difference to {side}']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append(
            f"| {NAMES[row['set']]}, {row['shots']} ({row['draws']}) | {100 * row['mean_accuracy']['tunewise']:.1f} | "
            f"{gaps[0]} | {gaps[1]} | {row['ratio to setfit']:.1f} | {row['ratio to setfit tuned']:.1f} |"
        )
    return lines


def whole_table() -> list[str]:
    """A whole fit against a grid and against Optuna: how much sooner, and what its choice scores beside theirs."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((RESULTS / "whole").glob("*.json"))}
    lines = [
        "",
        "The whole of `fit` (the process, to its report) on 1,000 rows, one thread a side, against every rung with six "
        "configurations trained in full by the same loops, and against 48 trials of Optuna (TPE, median pruner) over "
        "`lora` and `full` by Trainer + PEFT, tuned. Times faster is a geometric mean over seeds; points of accuracy "
        "are on the full test part (95 % intervals over seeds).",
        "",
        "| data (seeds) | accuracy | minutes | times faster than the grid | points over it | than Optuna | over it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        own = {key.split("-")[1]: row for key, row in found.items() if re.fullmatch(rf"{name}-\d+-tunewise", key)}
        against = []
        for peer in ("grid", "optuna"):
            other = {seed: found.get(f"{name}-{seed}-{peer}") for seed in own}
            pairs = [(row, other[seed]) for seed, row in own.items() if other[seed] is not None]
            gaps = [100 * (ours["test_accuracy"] - theirs["test_accuracy"]) for ours, theirs in pairs]
            ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
            against += [times(ratios), with_interval(gaps, "+")] if pairs else ["", ""]
        if own:
            accuracy = statistics.mean(100 * row["test_accuracy"] for row in own.values())
            minutes = statistics.mean(row["seconds"] / 60 for row in own.values())
            lines.append(f"| {words} ({len(own)}) | {accuracy:.1f} | {minutes:.1f} | " + " | ".join(against) + " |")
    return lines if found else []


def times(ratios: list[float]) -> str:
    """Geometric mean and its 95 % interval, by t over the logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.mean(logs)
    if len(logs) < 2:
        return f"{math.exp(middle):.1f}"
    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / len(logs) ** 0.5
    return f"{math.exp(middle):.1f} [{math.exp(middle - half):.1f}, {math.exp(middle + half):.1f}]"


def replay_lines() -> list[str]:
    found = read("replay")
    if found is None:
        return []
    row, rivals = found["sets"]["published, 32 candidates"], found["against_optuna"]
    lines = [
        "",
        f"A race of 32 candidates, replayed on the 63 published learning curves on which its constants were chosen, "
        f"costs {row['race']['cost']:.1f} full runs at a mean regret of {row['race']['regret']:.2f} points; random "
        f"search of that cost has {row['random']['regret']:.1f}.",
    ]
    if rivals["times_cheaper"] is not None:
        lines[-1] += (
            f" Optuna's pruners cost {rivals['times_cheaper']:.2f} times as much at equal regret (between their best "
            "settings)."
        )
    return lines


def speed_table() -> list[str]:
    """Ratios against peers, each from one run with both sides in turn."""
    lines = ["| the same work, both sides in turn on 2 cores | peer | times faster |", "|---|---|---|"]
    for method in ("lora", "full"):
        found = read(f"train-step-{method}")
        if found is not None:
            what = f"`{method}` of MiniLM, SST-2, {found['rows']:,} rows, {found['epochs']} epochs"
            names = {"trainer": "Transformers Trainer", "trainer tuned": "the same with bf16 and length grouping"}
            for side, ratio in found["ratio"].items():
                peer = names[side] + (" + PEFT" if method == "lora" and side == "trainer" else "")
                lines.append(f"| {what} | {peer} | {ratio:.2f} |")
    for path in sorted((RESULTS / "bracket").glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        for side, ratio in found["ratio"].items():
            peer = {"trainer": "Trainer + PEFT, one after another", "trainer tuned": "the same, tuned"}[side]
            seed = path.stem.rsplit("-", 1)[1]
            lines.append(f"| a choice among 16 `lora` candidates, 1,000 rows, seed {seed} | {peer} | {ratio:.1f} |")
    found = read("stack")
    if found is not None:
        for row in found:
            what = f"a step of {row['members']} `lora` candidates, {row['tokens_of_a_member']} tokens each"
            lines.append(f"| {what} | the same one by one | {row['ratio_by_the_rule']:.2f} ({row['rule']}) |")
    found = read("features")
    if found is not None:
        for side, ratio in found["ratio"].items():
            lines.append(f"| features of {found['texts']:,} BANKING77 texts, fp32 | {side} | {ratio:.2f} |")
    lines += [*arena_lines(), *writing_lines(), *sft_lines()]
    found = read("startup")
    if found is not None:
        seconds = {name: row["median_seconds"] for name, row in found.items()}
        lines += ["", f"`import tunewise` takes {seconds['import tunewise']:.2f} s, `tunewise --help` "
                  f"{seconds['tunewise --help']:.2f} s (Python alone {seconds['python -c pass']:.2f} s)."]  # fmt: skip
    return lines


def results(name: str) -> list[dict[str, Any]]:
    """Of every cell of a benchmark that was run."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((RESULTS / name).glob("*.json"))]


def arena_lines() -> list[str]:
    return [
        f"| labels scored after prompts: {found['cell']}, {found['requests']:,} requests "
        f"({found['share_of_limit']:.2f} of the limit) | lm-evaluation-harness | {found['ratio']:.1f} |"
        for found in results("arena")
    ]


def writing_lines() -> list[str]:
    return [
        f"| {found['written_tokens']:,} tokens written after {found['prompts']} prompts: {found['cell']} | a loop over "
        f"Transformers' `generate` | {found['ratio']:.2f} |"
        for found in results("writing")
    ]


def sft_lines() -> list[str]:
    lines = []
    for found in results("sft_step"):
        method, vocabulary, lengths = found["cell"].split("-")
        what = (
            f"a step of `{method}` on answers after prompts of {lengths} lengths, vocabulary {int(vocabulary):,}, "
            "which outweighs the layers of this small base"
        )
        peers = {
            "trl": "TRL + PEFT",
            "own to trl": "TRL + PEFT, own batches",
            "own to trl grouped": "the same, grouped",
        }
        lines += [f"| {what} | {peers[side]} | {ratio:.2f} |" for side, ratio in found["ratio"].items()]
        lines.append(f"| peak memory of that process (times less) | TRL + PEFT | {found['memory']:.2f} |")
    return lines


def tables() -> str:
    parts = (
        *(ladder_table(), shots_table(), regret_table(), [""]),
        *(speed_table(), contrastive_table(), whole_table(), replay_lines()),
    )
    return "\n".join([line for part in parts for line in part] + [""])


def main() -> None:
    text = README.read_text("utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    if "--write" in sys.argv:
        README.write_text(text[:start] + tables() + text[end:], encoding="utf-8")
    else:
        print(tables())


if __name__ == "__main__":
    main()
