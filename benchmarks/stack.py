"""LoRA candidates in one stack against the same one by one: seconds of a step, at several sizes of a step.

MiniLM, rank 8, texts of one length each; both layouts of one bracket advance in turn, three times, medians are taken.
The third figure is what the rule makes of it that every bracket applies when it is opened (`choose_population`): it
measures a step of both and stacks only where that is no slower.

python benchmarks/stack.py
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods.base import Context, Fold
from tunewise.methods.lora import Lora, LoraConfig
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.types import Example

CELLS = ((16, 1, 8), (8, 2, 8), (16, 2, 8), (8, 4, 16), (8, 8, 16), (8, 32, 16), (8, 32, 32))
"""Members, rows of a member's batch, tokens of a row."""
RATES = (1e-3, 2e-3)
REPEATS = 3
LABELS = ("no", "yes")


def context_of(batch: int, length: int) -> Context:
    base = load_base("bundled:minilm", device="cpu")
    words = " ".join(["film"] * (length - 2))
    rows = tuple(Example(id=str(i), fields={"text": words}, target=LABELS[i % 2]) for i in range(64 * batch))
    return Context(
        task=Task(data=DataConfig(train="x.csv"), budget=Budget(work=1), dtype="auto"),
        labels=LABELS,
        base=base,
        folds=(Fold(train=rows, race=rows[:8]),),
        features=FeatureStore(base, "keep_start", rows[:8], None),
        work=10**15,
        seed=0,
    )


def cell(members: int, batch: int, length: int) -> dict[str, Any]:
    context = context_of(batch, length)
    configs = [
        LoraConfig(learning_rate=RATES[i % 2] * (1 + i), batch_size=batch, epochs=100.0, head_init="zeros")
        for i in range(members)
    ]
    layouts = {"stacked": [list(range(members))], "one by one": [[i] for i in range(members)]}
    brackets = {
        name: Lora().open(dataclasses.replace(context, layout=layout), configs) for name, layout in layouts.items()
    }
    steps = max(2, 24 // (batch * length // 8))
    seconds: dict[str, list[float]] = {name: [] for name in layouts}
    for repeat in range(REPEATS + 1):
        for name, bracket in brackets.items():
            started = time.perf_counter()
            bracket.advance(bracket.fidelity + steps)
            if repeat > 0:  # the first one warms up
                seconds[name].append((time.perf_counter() - started) / steps)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    chosen = Lora().open(context, configs)
    rule = "stacked" if chosen.layout == layouts["stacked"] else "one by one"
    return {
        "members": members,
        "tokens_of_a_member": batch * length,
        "seconds_of_a_step": median,
        "ratio": median["one by one"] / median["stacked"],
        "rule": rule,
        "ratio_by_the_rule": median["one by one"] / median[rule],
        "said": chosen.notes,
    }


def main() -> None:
    found = []
    for each in CELLS:
        row = cell(*each)
        found.append(row)
        print(
            f"{row['members']} members, {row['tokens_of_a_member']} tokens each: stacked {row['ratio']:.2f} times, "
            f"by the rule ({row['rule']}) {row['ratio_by_the_rule']:.2f}",
            flush=True,
        )
    path = Path(__file__).parent / "results" / "stack.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
