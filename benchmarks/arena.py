"""Every label after every prompt of every example: shared prefixes computed once, against lm-evaluation-harness.

16 prompts (instruction and demonstrations, 400 tokens) x 256 AG News rows x 4 labels of one token, and of two, and 2
prompts x 64 BANKING77 rows x 77 labels, by a Llama of 9 million random weights in fp32; 8 prompts x 64 AG News rows by
one of 135 million. Random weights decide nothing about time. Both sides get the same token ids; the peer is lm-eval's
Hugging Face backend at its fastest batch size, which is found first on a part of the work.

Each side is a process of its own: here, there, and here again. What counts is the CPU's time on one thread, from ids
to log-probabilities, without imports and loading; wall clocks are noted beside it. The peer computes every context
anew, so that its time is proportional to the rows: it is measured on the first of each prompt (`peer_rows`) and
multiplied. On these, log-probabilities must agree within 1e-4, and the best prompt be the same.

`limit`: how long plain forward passes take over as many tokens as a perfect prefix tree has, in full batches of short
rows, which is what sharing everything could reach at best.

lm-eval may live in an environment of its own, named in `LMEVAL_PYTHON`. A cell whose result file exists is not run
again.

python benchmarks/arena.py [CELL ...] [--threads 1]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sets import data_root
from sides import found_by

RESULTS = Path(__file__).parent / "results" / "arena"
PROMPT_TOKENS = 400
ONE = {"World": " World", "Sports": " Sports", "Business": " Business", "Sci/Tech": " Technology"}
TWO = {
    "World": " world news",
    "Sports": " sports news",
    "Business": " business news",
    "Sci/Tech": " technology news",
}
SMALL: dict[str, int] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
LARGE: dict[str, int] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is asked of which model."""

    data: str
    prompts: int
    rows: int
    words: Mapping[str, str]
    """By label; without them, the labels themselves."""
    shape: Mapping[str, int]
    peer_rows: int
    """On so many rows of each prompt the peer is measured."""
    sweep_rows: int
    """On so many rows of one prompt its batch size is chosen."""


CELLS = {
    "ag_news, labels of 1 token": Cell(
        data="ag_news", prompts=16, rows=256, words=ONE, shape=SMALL, peer_rows=16, sweep_rows=32
    ),
    "ag_news, labels of 2 tokens": Cell(
        data="ag_news", prompts=16, rows=256, words=TWO, shape=SMALL, peer_rows=8, sweep_rows=8
    ),
    "banking77": Cell(data="banking77", prompts=2, rows=64, words={}, shape=SMALL, peer_rows=4, sweep_rows=1),
    "ag_news, 135 million, labels of 1 token": Cell(
        data="ag_news", prompts=8, rows=64, words=ONE, shape=LARGE, peer_rows=8, sweep_rows=8
    ),
    "ag_news, 135 million, labels of 2 tokens": Cell(
        data="ag_news", prompts=8, rows=64, words=TWO, shape=LARGE, peer_rows=2, sweep_rows=2
    ),
}
BATCH_SIZES = (1, 4, 16)
WORDS = 8192
"""Of the tokenizer."""


def rows(name: str, part: str) -> list[dict[str, str]]:
    lines = (data_root() / name / f"{part}.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def make_base(folder: Path, cell: Cell) -> None:
    """A Llama of random weights, and a tokenizer of the set's own words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = [word for words in (each.words.values() for each in CELLS.values()) for word in words]
    raw.train_from_iterator([row["text"] for row in rows(cell.data, "train")] + words * 2000, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", model_max_length=2048
    ).save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama",
        **cell.shape,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def requests(cell: Cell, folder: Path) -> list[tuple[list[int], list[int]]]:
    """Token ids of each context and of what follows it, prompt by prompt, row by row, label by label."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    train, test = rows(cell.data, "train"), rows(cell.data, "test")
    labels = sorted({row["label"] for row in train})
    words = {label: cell.words.get(label, " " + label.replace("_", " ")) for label in labels}
    answers = [ids(words[label]) for label in labels]
    found = []
    for prompt in range(cell.prompts):
        rng = np.random.default_rng(prompt)
        shown = ids(f"Which topic is it? ({prompt})\n\n")
        for place in rng.permutation(len(train)):
            if len(shown) >= PROMPT_TOKENS:
                break
            row = train[int(place)]
            shown += ids(f"{row['text']}\nAnswer:{words[row['label']]}\n\n")
        start = [tokenizer.bos_token_id, *shown[:PROMPT_TOKENS]]
        for place in np.random.default_rng(99).permutation(len(test))[: cell.rows]:
            context = start + ids(f"{test[int(place)]['text'][:400]}\nAnswer:")
            found += [(context, answer) for answer in answers]
    return found


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        """Of the CPU by this process, and on the wall."""
        return {"seconds": time.process_time() - self.cpu, "wall_seconds": time.perf_counter() - self.wall}


def ours(folder: Path, asked: list[tuple[list[int], list[int]]]) -> tuple[list[float], dict[str, Any]]:
    import torch

    from tunewise.models.load import load_base
    from tunewise.models.prefix_tree import Request, prefix_tree
    from tunewise.models.score import Scorer

    base = load_base(str(folder), device="cpu", dtype="float32")
    scorer = Scorer(base)
    made = [Request(np.array(context), np.array(answer)) for context, answer in asked]
    scorer.score(made[:8])  # the self-test belongs to loading
    clock = Clock()
    found = [float(each.sum()) for each in scorer.score(made)]
    seconds = clock.read()
    tokens = sum(root.total for root in prefix_tree(made))
    limit = limit_seconds(base, tokens, torch)
    return found, {**seconds, "tree_tokens": tokens, "limit_seconds": limit, "note": scorer.note}


def limit_seconds(base: Any, tokens: int, torch: Any) -> float:
    """Of plain forward passes over so many tokens, in batches of 64 rows of 32, by the best of three."""
    from tunewise.models.precision import fast_float32

    batch = torch.randint(2, WORDS, (64, 32))
    seconds = []
    with torch.inference_mode(), fast_float32():
        for _ in range(4):
            started = time.process_time()
            base.model(input_ids=batch, use_cache=False)
            seconds.append(time.process_time() - started)
    return min(seconds[1:]) * tokens / batch.numel()


def theirs(
    folder: Path, asked: list[tuple[list[int], list[int]]], batch_size: int
) -> tuple[list[float], dict[str, Any]]:
    import torch
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size, add_bos_token=False)
    # as the harness calls it: texts stand for the ids, and name what requests share
    named = [((repr(context), repr(answer)), context, answer) for context, answer in asked]
    with torch.inference_mode():
        model._loglikelihood_tokens(named[:8], disable_tqdm=True)
        clock = Clock()
        found = model._loglikelihood_tokens(named, disable_tqdm=True)
        seconds = clock.read()
    return [float(value) for value, _ in found], {**seconds, "batch_size": batch_size}


def run_side(side: str, folder: Path, asked: Path, threads: int, **more: Any) -> dict[str, Any]:
    """One side in a process of its own."""
    python = sys.executable if side == "tunewise" else os.environ.get("LMEVAL_PYTHON", sys.executable)
    command = [python, __file__, "--side", side, "--folder", str(folder), "--asked", str(asked)]
    command += [part for name, value in more.items() for part in (f"--{name}", str(value))]
    return found_by(command, who=f"arena: {side}", threads=threads)


def measure(name: str, threads: int) -> dict[str, Any]:
    cell = CELLS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        make_base(folder, cell)
        asked = requests(cell, folder)
        labels = len({tuple(answer) for _, answer in asked})
        by_prompt = [asked[at : at + cell.rows * labels] for at in range(0, len(asked), cell.rows * labels)]
        parts = {
            "whole": asked,
            "peer": [each for of_one in by_prompt for each in of_one[: cell.peer_rows * labels]],
            "sweep": asked[: cell.sweep_rows * labels],
        }
        paths = {part: Path(scratch) / f"{part}.json" for part in parts}
        for part, some in parts.items():
            paths[part].write_text(json.dumps(some), encoding="utf-8")
        sweep = {
            size: run_side("lm-eval", folder, paths["sweep"], threads, batch=size)["seconds"] for size in BATCH_SIZES
        }
        best = min(sweep, key=lambda size: sweep[size])
        own = run_side("tunewise", folder, paths["whole"], threads)
        peer = run_side("lm-eval", folder, paths["peer"], threads, batch=best)
        again = run_side("tunewise", folder, paths["whole"], threads)
    again.pop("scores")
    one = np.array(own.pop("scores")).reshape(cell.prompts, cell.rows, labels)[:, : cell.peer_rows]
    other = np.array(peer.pop("scores")).reshape(one.shape)
    best_prompt = [int(scores.max(axis=2).mean(axis=1).argmax()) for scores in (one, other)]
    seconds = (own["seconds"] + again["seconds"]) / 2
    return {
        "cell": name,
        "threads": threads,
        "weights": weights(cell.shape),
        "requests": len(asked),
        "tokens_of_answers": sorted({len(answer) for _, answer in asked}),
        "rows": cell.rows,
        "peer_rows": cell.peer_rows,
        "sweep_seconds": sweep,
        "sides": {"tunewise": own, "tunewise again": again, "lm-eval": peer},
        "ratio": peer["seconds"] * cell.rows / cell.peer_rows / seconds,
        "share_of_limit": (own["limit_seconds"] + again["limit_seconds"]) / 2 / seconds,
        "largest_difference": float(np.abs(one - other).max()),
        "same_answers": float((one.argmax(2) == other.argmax(2)).mean()),
        "same_winning_prompt": best_prompt[0] == best_prompt[1],
    }


def weights(shape: Mapping[str, int]) -> int:
    """Of a Llama of this shape whose embedding is its output layer."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    read = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * read + 3 * hidden * shape["intermediate_size"] + 2 * hidden
    return shape["vocab_size"] * hidden + layers * layer + hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=[], help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("tunewise", "lm-eval"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--asked", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        asked = json.loads(given.asked.read_text("utf-8"))
        if given.side == "tunewise":
            scores, more = ours(given.folder, asked)
        else:
            scores, more = theirs(given.folder, asked, given.batch)
        print("RESULT " + json.dumps({"scores": scores, **more}))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for cell in given.cells or CELLS:
        path = RESULTS / (cell.replace(", ", "-").replace(" ", "-") + ".json")
        if not path.exists():
            path.write_text(json.dumps(measure(cell, given.threads), indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
