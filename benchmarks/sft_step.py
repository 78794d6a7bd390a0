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

`--device cuda`: shapes of 135 million and of a billion weights in bf16 (`float32`: without, and without TF32, where
losses say whether both do the same), fp32 adapters, the fused attention and mixed precision on both sides, prompts of
300 tokens, answers of 64. Each library is one process for all cells of a shape. What counts is wall time of all steps
but the first three, waiting for the GPU after each, and the most that PyTorch's allocator held.

TRL may live in an environment of its own, named in `TRL_PYTHON`. A cell whose result file exists is not run again.

python benchmarks/sft_step.py [CELL ...] [--threads 1] [--device cuda] [--results FOLDER]
"""

import argparse
import gc
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

RESULTS = Path(__file__).parent / "results"
RANK, ALPHA = 8, 16
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
    device: str = "cpu"
    dtype: str = "float32"
    hidden: int = 192
    layers: int = 6
    inner: int = 576
    heads: int = 6
    keys: int = 6
    """Heads of keys and values."""
    batch: int = 8
    prompt: int = 88
    answer: int = 8
    """Tokens."""

    @property
    def sides(self) -> tuple[str, ...]:
        again = ("tunewise again",) if self.device == "cpu" else ()
        return ("tunewise", "trl", *(("tunewise own", "trl grouped") if self.natural else again))

    @property
    def untimed(self) -> int:
        """First steps, in which libraries are still being loaded."""
        return 1 if self.device == "cpu" else 3


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
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {"hidden": 576, "layers": 30, "inner": 1536, "heads": 9, "keys": 3, "batch": 16},
    "1b": {"hidden": 2048, "layers": 16, "inner": 8192, "heads": 32, "keys": 8, "batch": 8},
}
CELLS |= {
    f"cuda-{shape}-{vocabulary}-{'natural' if natural else 'equal'}{'-float32' if dtype == 'float32' else ''}": Cell(
        method="lora",
        vocabulary=vocabulary,
        natural=natural,
        steps=steps,
        device="cuda",
        dtype=dtype,
        prompt=300,
        answer=64,
        **SHAPES[shape],
    )
    for shape, vocabulary, natural, dtype, steps in (
        ("135m", 49152, False, "float32", 8),
        ("135m", 49152, True, "bfloat16", 18),
        ("135m", 151936, True, "bfloat16", 18),
        ("1b", 128256, False, "bfloat16", 12),
        ("1b", 128256, True, "bfloat16", 12),
    )
}


def base_name(cell: Cell) -> str:
    return f"{cell.hidden}-{cell.layers}-{cell.vocabulary}-{cell.dtype}"


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
        intermediate_size=cell.inner,
        num_hidden_layers=cell.layers,
        num_attention_heads=cell.heads,
        num_key_value_heads=cell.keys,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device(cell.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, cell.dtype))
    model.save_pretrained(folder)


def rows(cell: Cell) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and answers, in the order in which they are read, batch by batch."""
    rng = np.random.default_rng(0)
    count = cell.batch * cell.steps
    lengths = np.full(count, cell.prompt)
    if cell.natural:
        lengths = np.clip(cell.prompt * rng.lognormal(0.0, 0.8, count), 8, 1024).astype(int)
    return [
        (rng.integers(3, WORDS, length).tolist(), [*rng.integers(3, WORDS, cell.answer - 1).tolist(), 1])
        for length in lengths
    ]


class Meter:
    """Seconds of each step but the first, of the CPU or by the clock on the wall, and the most memory that was held."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.marks: list[float] = []
        if cell.device != "cpu":
            import torch

            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()

    def step(self) -> None:
        if self.cell.device == "cpu":
            self.marks.append(time.process_time())
        else:
            import torch

            torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    def read(self, losses: list[float]) -> dict[str, Any]:
        seconds = np.diff(self.marks)[self.cell.untimed - 1 :]
        return {
            "losses": losses,
            "seconds": float(seconds.sum()),
            "median_step_seconds": float(np.median(seconds)),
            "peak_bytes": self.peak_bytes(),
        }

    def peak_bytes(self) -> int:
        """Since this program began, or, of a GPU, since this began; `getrusage` may say the parent's."""
        if self.cell.device == "cpu":
            lines = Path("/proc/self/status").read_text("utf-8").split("\n")
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        import torch

        return torch.cuda.max_memory_allocated() - self.before


def ours(folder: Path, cell: Cell, *, as_given: bool) -> dict[str, Any]:
    import torch

    import tunewise.models.load as loading
    from tunewise.adapters.files import Use, save_adapter
    from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
    from tunewise.adapters.stack import Member
    from tunewise.models.prefix_tree import Request
    from tunewise.models.writing_base import WritingBase
    from tunewise.training.adapted import StackedPopulation
    from tunewise.training.loop import Loop, Plan, Settings
    from tunewise.training.texts import Texts, Writing
    from tunewise.training.whole import FullPopulation

    loading._loaded.clear()  # of the cell before
    meter = Meter(cell)
    base = loading.load_base(str(folder), device=cell.device, dtype=cell.dtype)
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
    plan = Plan(epochs=1, batch_size=cell.batch, seed=0, evaluations=1, schedule="constant")
    loop = Loop(population, Writing(train, race), plan, [Settings(learning_rate=RATE[cell.method], warmup_share=0.0)])
    loop.points = ()  # nor does the peer evaluate
    if cell.method == "lora":
        use = Use("CAUSAL_LM", base.above)
        save_adapter(loop.export(0), LoraForm(rank=RANK, alpha=ALPHA), folder / "adapter", use=use)
    if as_given:
        loop._epoch = (0, [np.arange(at, at + cell.batch) for at in range(0, len(made), cell.batch)])
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
    meter = Meter(cell)
    attention = "eager" if cell.device == "cpu" else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, cell.dtype), attn_implementation=attention
    )
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
            per_device_train_batch_size=cell.batch,
            learning_rate=RATE[cell.method],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=cell.dtype == "bfloat16",
            use_cpu=cell.device == "cpu",
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


def run_library(library: str, bases: dict[str, Path], sides: list[str], threads: int) -> dict[str, Any]:
    """What one library's sides found in a process of their own, by cell and side."""
    python = os.environ.get("TRL_PYTHON", sys.executable) if library == "trl" else sys.executable
    folders = [str(folder) for folder in bases.values()]
    command = [python, __file__, *bases, "--sides", *sides, "--folders", *folders]
    return found_by(command, who=f"sft_step: {', '.join(sides)}", threads=threads)


def run_sides(cells: list[str], sides: list[str], folders: list[Path]) -> dict[str, Any]:
    """In this process."""
    found: dict[str, Any] = {}
    for name, folder in zip(cells, folders, strict=True):
        cell = CELLS[name]
        found[name] = {}
        for side in sides:
            if side not in cell.sides:
                continue
            if side.startswith("tunewise"):
                found[name][side] = ours(folder, cell, as_given=side != "tunewise own")
            else:
                found[name][side] = theirs(folder, cell, grouped=side == "trl grouped")
    return found


def by_side(cells: list[str], threads: int) -> dict[str, dict[str, Any]]:
    """What each side found, by cell: on the CPU in a process for each, on a GPU in one for each library."""
    with tempfile.TemporaryDirectory() as scratch:
        bases = {name: Path(scratch) / base_name(CELLS[name]) for name in cells}
        for name, folder in bases.items():
            if not folder.exists():
                make_base(folder, CELLS[name])
        found: dict[str, dict[str, Any]] = {name: {} for name in cells}
        sides = list(dict.fromkeys(side for name in cells for side in CELLS[name].sides))
        parts = [[side] for side in sides]
        if CELLS[cells[0]].device != "cpu":
            parts = [[side for side in sides if side.startswith(library)] for library in ("tunewise", "trl")]
        for part in parts:
            for name, own in run_library(part[0].split()[0], bases, part, threads).items():
                found[name] |= own
    return found


def summary(name: str, sides: dict[str, Any], threads: int) -> dict[str, Any]:
    cell = CELLS[name]
    found: dict[str, Any] = {"cell": name, "threads": threads, "batch": cell.batch, **machine(cell), "sides": sides}
    one, other = sides["tunewise"], sides["trl"]
    found["ratio"] = {"trl": other["seconds"] / one["seconds"]}
    if cell.natural:
        best = sides["tunewise own"]["seconds"]
        found["ratio"] |= {
            "own to trl": other["seconds"] / best,
            "own to trl grouped": sides["trl grouped"]["seconds"] / best,
        }
    found["memory"] = other["peak_bytes"] / one["peak_bytes"]
    found["largest_difference"] = float(np.abs(np.array(one["losses"]) - np.array(other["losses"])).max())
    return found


def machine(cell: Cell) -> dict[str, Any]:
    if cell.device == "cpu":
        return {}
    import torch

    return {"machine": torch.cuda.get_device_name(), "torch": torch.__version__, "shape": vars(cell)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=[], help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where no cells are named")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sides", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--folders", type=Path, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sides:
        print("RESULT " + json.dumps(run_sides(given.cells, given.sides, given.folders)))
        return
    if unknown := [name for name in given.cells if name not in CELLS]:
        raise SystemExit(f"sft_step: there is no cell {unknown[0]}. There are: {'; '.join(CELLS)}.")
    folder = given.results / "sft_step"
    folder.mkdir(parents=True, exist_ok=True)
    asked = given.cells or [name for name, cell in CELLS.items() if cell.device == given.device]
    missing = [name for name in asked if not (folder / f"{name}.json").exists()]
    groups: dict[Any, list[str]] = {}
    for name in missing:
        cell = CELLS[name]
        groups.setdefault(name if cell.device == "cpu" else cell.hidden, []).append(name)
    for group in groups.values():
        for name, sides in by_side(group, given.threads).items():
            text = json.dumps(summary(name, sides, given.threads), indent=1) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    for name in asked:
        print((folder / f"{name}.json").read_text("utf-8"))


if __name__ == "__main__":
    main()
