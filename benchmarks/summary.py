"""The README's tables, from the result files; `--write` puts them there, and a test compares."""

import json
import sys
from pathlib import Path
from typing import Any

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
        "`*` marks rungs that were not searched beyond their default.",
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
            text = row["status"].replace("_", " ") if score is None else f"{100 * score['score']:.1f}"
            text += "*" if row["under_searched"] else ""
            cells.append(f"**{text}**" if rung == verdict["chosen"]["method"] else text)
        asked, spent = verdict["budget"]["asked"]["minutes"], verdict["budget"]["spent"]["minutes"]
        sizes = f"{verdict['n']['train']:,} / {verdict['n']['held_out']:,}"
        lines.append(f"| {name} ({sizes}) | " + " | ".join(cells) + f" | {asked:g} min, {spent:.1f} |")
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
    found = read("features")
    if found is not None:
        for side, ratio in found["ratio"].items():
            lines.append(f"| features of {found['texts']:,} BANKING77 texts, fp32 | {side} | {ratio:.2f} |")
    found = read("startup")
    if found is not None:
        seconds = {name: row["median_seconds"] for name, row in found.items()}
        lines += ["", f"`import tunewise` takes {seconds['import tunewise']:.2f} s, `tunewise --help` "
                  f"{seconds['tunewise --help']:.2f} s (Python alone {seconds['python -c pass']:.2f} s)."]  # fmt: skip
    return lines


def tables() -> str:
    return "\n".join([*ladder_table(), "", *speed_table(), ""])


def main() -> None:
    text = README.read_text("utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    if "--write" in sys.argv:
        README.write_text(text[:start] + tables() + text[end:], encoding="utf-8")
    else:
        print(tables())


if __name__ == "__main__":
    main()
