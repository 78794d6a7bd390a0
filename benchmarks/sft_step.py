"""LoRA and full fine-tuning on answers after long prompts, against TRL's SFTTrainer + PEFT: the same rows and steps.

A Llama of random weights in fp32, batches of 8 rows, answers of 8 tokens. With 6 layers of 192 a vocabulary of 49 or
152 thousand has 3 or 10 times the weights of the layers, where a large model's has a fourth: more is to be gained here
by leaving logits out. `equal`: prompts of 88 tokens; `natural`: log-normal lengths around 88. TRL is tuned: answers
alone count, eager attention and fp32 adapters on both sides, no checkpointing, no dropout.

Sides: `tunewise` and `trl` read identical batches, in the order given, and start from the same weights, so that the
loss of every step can be compared. Where lengths are natural, `tunewise own` reads the batches that its own loop makes,
rows of like length together, and `trl grouped` those of `group_by_length`.

Each side is a process of its own, in turn. What counts is the CPU's time of all steps but the first, on one thread,
from token ids; `peak_bytes` is the most that the whole process held, imports among it.

TRL may live in an environment of its own, named in `TRL_PYTHON`. A cell whose result file exists is not run again.

python benchmarks/sft_step.py [CELL ...] [--threads 1]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sides import found_by

RESULTS = Path(__file__).parent / "results" / "sft_step"
BATCH, ANSWER, PROMPT, RANK, ALPHA = 8, 8, 88, 8, 16
RATE = {"lora": 1e-3, "full": 1e-4}
WORDS = 4000
"""Token ids are drawn among so many."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is trained, on what."""

    method: str
    vocabulary: int
    natural: bool
    steps: int
    hidden: int = 192
    layers: int = 6


CELLS = {
    f"{method}-{vocabulary}-{'natural' if natural else 'equal'}": Cell(
        method=method, vocabulary=vocabulary, natural=natural, steps=steps
    )
    for method, vocabulary, natural, steps in (
        ("lora", 49152, False, 12),
        ("lora", 49152, True, 12),
        ("lora", 151936, False, 6),
        ("lora", 151936, True, 6),
        ("full", 151936, False, 4),
    )
}


def make_base(folder: Path, cell: Cell) -> None:
    """A Llama of random weights, with a tokenizer that nobody asks."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(WORDS))])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048
    ).save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=cell.vocabulary,
        hidden_size=cell.hidden,
        intermediate_size=3 * cell.hidden,
        num_hidden_layers=cell.layers,
        num_attention_heads=cell.hidden // 32,
        num_key_value_heads=cell.hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def rows(cell: Cell) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and answers, in the order in which they are read, batch by batch."""
    rng = np.random.default_rng(0)
    count = BATCH * cell.steps
    lengths = np.full(count, PROMPT)
    if cell.natural:
        lengths = np.clip(PROMPT * rng.lognormal(0.0, 0.8, count), 8, 1024).astype(int)
    return [
        (rng.integers(3, WORDS, length).tolist(), [*rng.integers(3, WORDS, ANSWER - 1).tolist(), 1])
        for length in lengths
    ]


class Meter:
    """CPU seconds of each step but the first, and the most memory that the process held."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def step(self) -> None:
        self.marks.append(time.process_time())

    def read(self, losses: list[float]) -> dict[str, Any]:
        seconds = np.diff(self.marks)
        return {
            "losses": losses,
            "seconds": float(seconds.sum()),
            "median_step_seconds": float(np.median(seconds)),
            "peak_bytes": peak_bytes(),
        }


def peak_bytes() -> int:
    """Since this program began; what `getrusage` says is the parent's where that held more."""
    lines = Path("/proc/self/status").read_text("utf-8").split("\n")
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def ours(folder: Path, cell: Cell, *, as_given: bool) -> dict[str, Any]:
    import torch

    from tunewise.adapters.files import Use, save_adapter
    from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
    from tunewise.adapters.stack import Member
    from tunewise.models.load import load_base
    from tunewise.models.prefix_tree import Request
    from tunewise.models.writing_base import WritingBase
    from tunewise.training.adapted import StackedPopulation
    from tunewise.training.loop import Loop, Plan, Settings
    from tunewise.training.texts import Texts, Writing
    from tunewise.training.whole import FullPopulation

    meter = Meter()
    base = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(base, WritingBase)
    made = tuple(Request(np.array(prompt), np.array(answer)) for prompt, answer in rows(cell))
    train, race = Texts(base, made), Texts(base, made[:1])
    population: Any
    if cell.method == "lora":
        targets = target_layers(base.model)
        member = Member(scale=ALPHA / RANK, seed=0, dropout=0.0)
        population = StackedPopulation(base, lambda tree: LoraStack(tree, [member], rank=RANK, targets=targets))
    else:
        used = np.unique(np.concatenate(train.tokens.ids))
        population = FullPopulation(base, None, used_tokens=used, dtype=torch.float32, seed=0)
    plan = Plan(epochs=1, batch_size=BATCH, seed=0, evaluations=1, schedule="constant")
    loop = Loop(population, Writing(train, race), plan, [Settings(learning_rate=RATE[cell.method], warmup_share=0.0)])
    loop.points = ()  # nor does the peer evaluate
    if cell.method == "lora":
        use = Use("CAUSAL_LM", base.above)
        save_adapter(loop.export(0), LoraForm(rank=RANK, alpha=ALPHA), folder / "adapter", use=use)
    if as_given:
        loop._epoch = (0, [np.arange(at, at + BATCH) for at in range(0, len(made), BATCH)])
    for step in range(cell.steps):
        loop.advance(step + 1)
        meter.step()
    return meter.read(loop.members[0].train_losses)


def theirs(folder: Path, cell: Cell, *, grouped: bool) -> dict[str, Any]:
    import datasets
    import torch
    import transformers
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    meter = Meter()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if cell.method == "lora":
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    table = datasets.Dataset.from_list(
        [
            {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}
            for prompt, answer in rows(cell)
        ]
    )

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step()

    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE[cell.method],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            train_sampling_strategy="group_by_length" if grouped else "sequential",
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=table,
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Marks()],
        )
        trainer.train()
    return meter.read([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def run_side(side: str, name: str, folder: Path, threads: int) -> dict[str, Any]:
    """One side in a process of its own."""
    python = os.environ.get("TRL_PYTHON", sys.executable) if side.startswith("trl") else sys.executable
    command = [python, __file__, name, "--side", side, "--folder", str(folder)]
    return found_by(command, who=f"sft_step: {side}", threads=threads)


def measure(name: str, threads: int) -> dict[str, Any]:
    cell = CELLS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        make_base(folder, cell)
        more = ("tunewise own", "trl grouped") if cell.natural else ("tunewise again",)
        sides = {side: run_side(side, name, folder, threads) for side in ("tunewise", "trl", *more)}
    one, other = sides["tunewise"], sides["trl"]
    ratio = {"trl": other["seconds"] / one["seconds"]}
    if cell.natural:
        best = sides["tunewise own"]["seconds"]
        ratio |= {"own to trl": other["seconds"] / best, "own to trl grouped": sides["trl grouped"]["seconds"] / best}
    return {
        "cell": name,
        "threads": threads,
        "batch": BATCH,
        "sides": sides,
        "ratio": ratio,
        "memory": other["peak_bytes"] / one["peak_bytes"],
        "largest_difference": float(np.abs(np.array(one["losses"]) - np.array(other["losses"])).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=[], help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        (name,) = given.cells
        if given.side.startswith("tunewise"):
            found = ours(given.folder, CELLS[name], as_given=given.side != "tunewise own")
        else:
            found = theirs(given.folder, CELLS[name], grouped=given.side == "trl grouped")
        print("RESULT " + json.dumps(found))
        return
    if unknown := [name for name in given.cells if name not in CELLS]:
        raise SystemExit(f"sft_step: there is no cell {unknown[0]}. There are: {'; '.join(CELLS)}.")
    for name in given.cells or CELLS:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            found = measure(name, given.threads)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
