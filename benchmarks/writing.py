"""Answers written greedily, many prompts at once, against a loop over transformers' `generate` in arrival order.

`stories260K`: 256 beginnings of TinyStories, each cut somewhere between a tenth and nine tenths, are written on for 128
tokens at most; a story's end comes where it comes. `random`: a Llama of 9 million random weights, which ends no answer,
writes 32 tokens after 128 news texts of natural length.

Both sides get the same token ids, on one thread, each in a process of its own: here, there, and here again. The peer
takes prompts in batches as they come, padded on the left, at its fastest batch size, which is found first on a fourth
of the work. What counts is the CPU's time from ids to ids; wall clocks are noted beside it. `same_answers`: the share
of prompts whose answers are the same, token for token. A cell whose result file exists is not run again.

python benchmarks/writing.py [CELL ...] [--threads 1]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from arena import CELLS as ARENA
from arena import Clock, make_base, rows
from sets import data_root
from sides import found_by

RESULTS = Path(__file__).parent / "results" / "writing"
CELLS = {"stories260K": 128, "random": 32}
"""Most new tokens of an answer."""
BATCH_SIZES = (8, 32, 64)


def base_of(cell: str, scratch: Path) -> Path:
    if cell == "stories260K":
        return data_root() / "models" / "stories260K"
    make_base(scratch / "base", ARENA["ag_news, labels of 1 token"])
    return scratch / "base"


def prompts(cell: str, folder: Path) -> list[list[int]]:
    """Token ids, in the order in which they arrive."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    if cell == "stories260K":
        stories = json.loads((data_root() / "lm_text" / "tinystories_1000.json").read_text("utf-8"))
        texts = [story if isinstance(story, str) else str(story["text"]) for story in stories[:256]]
        cut = [text[: max(1, int(len(text) * rng.uniform(0.1, 0.9)))] for text in texts]
        longest = 512 - CELLS[cell]
    else:
        cut = [row["text"] for row in rows("ag_news", "test")[:128]]
        longest = 1024
    return [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:longest] for text in cut]


def ours(folder: Path, asked: list[list[int]], most: int) -> tuple[list[list[int]], dict[str, Any]]:
    from tunewise.models.answers import writer_of
    from tunewise.models.generate import Decoding
    from tunewise.models.load import load_base

    writer = writer_of(load_base(str(folder), device="cpu", dtype="float32"))
    made = [np.array(ids) for ids in asked]
    writer.write(made[:4], Decoding(max_new_tokens=4))
    clock = Clock()
    found = writer.write(made, Decoding(max_new_tokens=most))
    return [list(each.ids) for each in found], clock.read()


def theirs(folder: Path, asked: list[list[int]], most: int, batch_size: int) -> tuple[list[list[int]], dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id

    def write(some: list[list[int]], tokens: int) -> list[list[int]]:
        width = max(map(len, some))
        inputs = torch.tensor([[0] * (width - len(ids)) + ids for ids in some])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in some])
        with torch.inference_mode():
            written = model.generate(
                input_ids=inputs, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        return [ids[: ids.index(ends)] if ends in ids else ids for ids in written[:, width:].tolist()]

    write(asked[:4], 4)
    clock = Clock()
    batches = range(0, len(asked), batch_size)
    found = [ids for start in batches for ids in write(asked[start : start + batch_size], most)]
    return found, {**clock.read(), "batch_size": batch_size}


def run_side(side: str, cell: str, folder: Path, threads: int, *, batch: int = 0, share: int = 1) -> dict[str, Any]:
    """One side in a process of its own, on one in `share` of the prompts."""
    command = [sys.executable, __file__, cell, "--side", side, "--folder", str(folder)]
    command += ["--batch", str(batch), "--share", str(share)]
    return found_by(command, who=f"writing: {side}", threads=threads)


def measure(cell: str, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = base_of(cell, Path(scratch))
        sweep = {
            size: run_side("transformers", cell, folder, threads, batch=size, share=4)["seconds"]
            for size in BATCH_SIZES
        }
        best = min(sweep, key=lambda size: sweep[size])
        own = run_side("tunewise", cell, folder, threads)
        peer = run_side("transformers", cell, folder, threads, batch=best)
        again = run_side("tunewise", cell, folder, threads)
        lengths = [len(ids) for ids in prompts(cell, folder)]
    answers, others, _ = (side.pop("answers") for side in (own, peer, again))
    return {
        "cell": cell,
        "threads": threads,
        "prompts": len(lengths),
        "prompt_tokens": [min(lengths), float(np.mean(lengths)), max(lengths)],
        "written_tokens": sum(map(len, answers)),
        "sweep_seconds": sweep,
        "sides": {"tunewise": own, "tunewise again": again, "transformers": peer},
        "ratio": 2 * peer["seconds"] / (own["seconds"] + again["seconds"]),
        "same_answers": float(np.mean([one == other for one, other in zip(answers, others, strict=True)])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=[], help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("tunewise", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        (cell,) = given.cells
        asked = prompts(cell, given.folder)[:: given.share]
        if given.side == "tunewise":
            answers, more = ours(given.folder, asked, CELLS[cell])
        else:
            answers, more = theirs(given.folder, asked, CELLS[cell], given.batch)
        print("RESULT " + json.dumps({"answers": answers, **more}))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for cell in given.cells or CELLS:
        path = RESULTS / f"{cell}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(cell, given.threads), indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
