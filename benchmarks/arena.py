"""Every label after every prompt of every example: shared prefixes computed once, against lm-evaluation-harness.

16 prompts (instruction and demonstrations, 400 tokens) x 256 AG News rows x 4 labels of one token, and of two; and 2
prompts x 64 BANKING77 rows x 77 labels. A Llama of 8 million random weights in fp32: they decide nothing about time.
Both sides get the same token ids; the peer is lm-eval's Hugging Face backend at its fastest batch size, which is found
first on a sixteenth of the work. Each side is a process of its own, in turn; time is from ids to log-probabilities,
without imports and loading. Log-probabilities must agree within 1e-4.

`limit`: how long plain forward passes take over as many tokens as a perfect prefix tree has, in full batches of short
rows, which is what sharing everything could reach at best.

lm-eval may live in an environment of its own, named in `LMEVAL_PYTHON`.

python benchmarks/arena.py [CELL ...] [--threads 1]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sets import data_root

RESULTS = Path(__file__).parent / "results" / "arena"
PROMPT_TOKENS = 400
CELLS: dict[str, dict[str, Any]] = {
    "ag_news, labels of 1 token": {
        "set": "ag_news",
        "prompts": 16,
        "rows": 256,
        "words": {"World": " World", "Sports": " Sports", "Business": " Business", "Sci/Tech": " Technology"},
    },
    "ag_news, labels of 2 tokens": {
        "set": "ag_news",
        "prompts": 16,
        "rows": 256,
        "words": {
            "World": " world news",
            "Sports": " sports news",
            "Business": " business news",
            "Sci/Tech": " technology news",
        },
    },
    "banking77": {"set": "banking77", "prompts": 2, "rows": 64, "words": {}},
}
BATCH_SIZES = (1, 4, 16, 64)
VOCABULARY, HIDDEN, LAYERS = 8192, 256, 8


def rows(name: str, part: str) -> list[dict[str, str]]:
    lines = (data_root() / name / f"{part}.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def make_base(folder: Path, name: str) -> None:
    """A Llama of random weights, and a tokenizer of the set's own words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = [word for words in (CELLS[cell]["words"].values() for cell in CELLS) for word in words]
    raw.train_from_iterator([row["text"] for row in rows(name, "train")] + words * 2000, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", model_max_length=2048
    ).save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def requests(cell: str, folder: Path) -> list[tuple[list[int], list[int]]]:
    """Token ids of each context and of what follows it, prompt by prompt, row by row, label by label."""
    from transformers import AutoTokenizer

    asked = CELLS[cell]
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    train, test = rows(asked["set"], "train"), rows(asked["set"], "test")
    labels = sorted({row["label"] for row in train})
    words = {label: asked["words"].get(label, " " + label.replace("_", " ")) for label in labels}
    answers = [ids(words[label]) for label in labels]
    found = []
    for prompt in range(asked["prompts"]):
        rng = np.random.default_rng(prompt)
        shown = ids(f"Which topic is it? ({prompt})\n\n")
        for place in rng.permutation(len(train)):
            if len(shown) >= PROMPT_TOKENS:
                break
            row = train[int(place)]
            shown += ids(f"{row['text']}\nAnswer:{words[row['label']]}\n\n")
        start = [tokenizer.bos_token_id, *shown[:PROMPT_TOKENS]]
        for place in np.random.default_rng(99).permutation(len(test))[: asked["rows"]]:
            context = start + ids(f"{test[int(place)]['text'][:400]}\nAnswer:")
            found += [(context, answer) for answer in answers]
    return found


def ours(folder: Path, asked: list[tuple[list[int], list[int]]]) -> tuple[float, list[float], dict[str, Any]]:
    import torch

    from tunewise.models.load import load_base
    from tunewise.models.prefix_tree import Request, prefix_tree
    from tunewise.models.score import Scorer

    base = load_base(str(folder), device="cpu", dtype="float32")
    scorer = Scorer(base)
    made = [Request(np.array(context), np.array(answer)) for context, answer in asked]
    scorer.score(made[:8])  # the self-test belongs to loading
    started = time.perf_counter()
    found = [float(each.sum()) for each in scorer.score(made)]
    seconds = time.perf_counter() - started
    tokens = sum(root.total for root in prefix_tree(made))
    limit = limit_seconds(base, tokens, torch)
    return seconds, found, {"tree_tokens": tokens, "limit_seconds": limit, "note": scorer.note}


def limit_seconds(base: Any, tokens: int, torch: Any) -> float:
    """Of plain forward passes over so many tokens, in batches of 64 rows of 32, by the best of three."""
    from tunewise.models.precision import fast_float32

    batch = torch.randint(2, VOCABULARY, (64, 32))
    seconds = []
    with torch.inference_mode(), fast_float32():
        for _ in range(4):
            started = time.process_time()
            base.model(input_ids=batch, use_cache=False)
            seconds.append(time.process_time() - started)
    return min(seconds[1:]) * tokens / batch.numel()


def theirs(
    folder: Path, asked: list[tuple[list[int], list[int]]], batch_size: int
) -> tuple[float, list[float], dict[str, Any]]:
    import torch
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size, add_bos_token=False)
    # as the harness calls it: texts stand for the ids, and name what requests share
    named = [((repr(context), repr(answer)), context, answer) for context, answer in asked]
    with torch.inference_mode():
        model._loglikelihood_tokens(named[:8], disable_tqdm=True)
        started = time.perf_counter()
        found = model._loglikelihood_tokens(named, disable_tqdm=True)
        seconds = time.perf_counter() - started
    return seconds, [float(value) for value, _ in found], {"batch_size": batch_size}


def run_side(side: str, folder: Path, asked: Path, threads: int, **more: Any) -> dict[str, Any]:
    """One side in a process of its own."""
    python = sys.executable if side == "tunewise" else os.environ.get("LMEVAL_PYTHON", sys.executable)
    command = [python, __file__, "--side", side, "--folder", str(folder), "--asked", str(asked)]
    command += [part for name, value in more.items() for part in (f"--{name}", str(value))]
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits})
    if done.returncode != 0:
        raise SystemExit(f"arena: {side} failed:\n{done.stderr[-2000:]}")
    line = next(line for line in done.stdout.split("\n") if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


def measure(cell: str, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, whole, part = Path(scratch) / "base", Path(scratch) / "whole.json", Path(scratch) / "part.json"
        make_base(folder, CELLS[cell]["set"])
        asked = requests(cell, folder)
        whole.write_text(json.dumps(asked), encoding="utf-8")
        part.write_text(json.dumps(asked[: max(16, len(asked) // 16)]), encoding="utf-8")
        sweep = {size: run_side("lm-eval", folder, part, threads, batch=size)["seconds"] for size in BATCH_SIZES}
        best = min(sweep, key=lambda size: sweep[size])
        own = run_side("tunewise", folder, whole, threads)
        peer = run_side("lm-eval", folder, whole, threads, batch=best)
    labels = len({tuple(answer) for _, answer in asked})
    one, other = (np.array(side.pop("scores")).reshape(-1, labels) for side in (own, peer))
    prompts = CELLS[cell]["prompts"]
    winners = [int(scores.max(axis=1).reshape(prompts, -1).mean(axis=1).argmax()) for scores in (one, other)]
    return {
        "cell": cell,
        "threads": threads,
        "requests": len(asked),
        "tokens_of_answers": sorted({len(answer) for _, answer in asked}),
        "sweep_seconds": sweep,
        "sides": {"tunewise": own, "lm-eval": peer},
        "ratio": peer["seconds"] / own["seconds"],
        "share_of_limit": own["limit_seconds"] / own["seconds"],
        "largest_difference": float(np.abs(one - other).max()),
        "same_answers": float((one.argmax(1) == other.argmax(1)).mean()),
        "same_winning_prompt": winners[0] == winners[1],
    }


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
            seconds, scores, more = ours(given.folder, asked)
        else:
            seconds, scores, more = theirs(given.folder, asked, given.batch)
        print("RESULT " + json.dumps({"seconds": seconds, "scores": scores, **more}))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for cell in given.cells or CELLS:
        path = RESULTS / (cell.replace(", ", "-").replace(" ", "-") + ".json")
        if not path.exists():
            path.write_text(json.dumps(measure(cell, given.threads), indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
