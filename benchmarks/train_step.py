"""LoRA and full fine-tuning of MiniLM on SST-2 against Transformers Trainer + PEFT: the same model, rows and steps.

2,000 rows of natural length, 2 epochs of batches of 32, three seeds; every side in a process of its own, in turn, two
threads each. The peer runs at its defaults (fp32, padding to the longest of a batch) and as its documents advise on
such a machine (bf16, batches grouped by length). Time is from texts to trained weights, without imports and loading.
`same_losses` trains both models in fp32 on identical batches and compares the loss of every step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from sets import data_root

ROWS, EPOCHS, BATCH, RANK, ALPHA = 2000, 2, 32, 8, 16
RATE = {"lora": 1e-3, "full": 1e-4}
SIDES = ("tunewise", "trainer", "trainer tuned")
SEEDS = (0, 1, 2)
LABELS = ("negative", "positive")


def rows(name: str) -> tuple[list[str], np.ndarray]:
    lines = (data_root() / "sst2" / f"{name}.jsonl").read_text("utf-8").split("\n")
    read = [json.loads(line) for line in lines if line]
    return [row["text"] for row in read], np.array([LABELS.index(row["label"]) for row in read])


def sample(seed: int) -> tuple[list[str], np.ndarray]:
    texts, targets = rows("train")
    picked = np.random.default_rng(seed).permutation(len(texts))[:ROWS]
    return [texts[i] for i in picked], targets[picked]


def _bracket(method_name: str, *, seed: int, dtype: str, epochs: int) -> tuple[Any, Any]:
    from tunewise.config import Budget, DataConfig, Task
    from tunewise.methods import get_method
    from tunewise.methods.base import Context, Fold
    from tunewise.models.embed import FeatureStore
    from tunewise.models.load import load_base
    from tunewise.training.stopping import evaluation_steps
    from tunewise.types import Example

    base = load_base("bundled:minilm", device="cpu", dtype=dtype)
    texts, targets = sample(seed)

    def examples(part: Sequence[str], labels: np.ndarray) -> tuple[Example, ...]:
        pairs = enumerate(zip(part, labels, strict=True))
        return tuple(Example(id=str(i), fields={"text": t}, target=LABELS[y]) for i, (t, y) in pairs)

    train = examples(texts, targets)
    # the peer does not evaluate while it trains, so the loop is given next to nothing to evaluate on
    race = examples(*(part[:8] for part in rows("dev")))
    context = Context(
        task=Task(data=DataConfig(train="x.csv"), budget=Budget(work=1), truncation="keep_start", dtype=dtype),
        labels=LABELS,
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", (*train, *race), None),
        work=1,
        seed=seed,
    )
    method = get_method(method_name)
    config = method.Config(learning_rate=RATE[method_name], epochs=epochs, batch_size=BATCH, head_init="zeros")
    bracket = method.open(context, [config])
    for loop in bracket.loops:
        loop.points = evaluation_steps(loop.horizon, 1)  # nor does the peer stop early
    return bracket, base


def ours(method_name: str, seed: int) -> dict[str, Any]:
    import tunewise.methods.full
    import tunewise.methods.lora  # noqa: F401 - imported here, so that it is not timed
    from tunewise.models.load import load_base
    from tunewise.types import Example

    load_base("bundled:minilm", device="cpu")  # kept in memory: loading is not timed on either side
    started = time.perf_counter()
    bracket, _ = _bracket(method_name, seed=seed, dtype="auto", epochs=EPOCHS)
    bracket.advance(bracket.horizon)
    seconds = time.perf_counter() - started
    dev_texts, dev_targets = rows("dev")
    dev = [Example(id=str(i), fields={"text": text}) for i, text in enumerate(dev_texts)]
    labels = [answer.text for answer in bracket.predictor(0).predict(dev)]
    accuracy = float(np.mean([label == LABELS[target] for label, target in zip(labels, dev_targets, strict=True)]))
    return {"seconds": seconds, "dev_accuracy": accuracy, "steps": bracket.horizon}


class Peer(torch.nn.Module):
    """Mean pooling and a linear head on the same base: what a user of Trainer writes for a sentence encoder."""

    def __init__(
        self,
        method: str,
        rank: int = RANK,
        dropout: float = 0.0,
        labels: int = len(LABELS),
        base: str = "bundled:minilm",
    ) -> None:
        super().__init__()
        import transformers
        from peft import LoraConfig, get_peft_model

        from tunewise.models.load import describe_base

        model = transformers.AutoModel.from_pretrained(describe_base(base).path, add_pooling_layer=False)
        if method == "lora":
            config = LoraConfig(
                r=rank,
                lora_alpha=ALPHA / RANK * rank,
                lora_dropout=dropout,
                target_modules="all-linear",
                task_type="FEATURE_EXTRACTION",
            )
            model = get_peft_model(model, config)
        self.base = model
        self.head = torch.nn.Linear(384, labels)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, labels: Any = None, **inputs: Any) -> dict[str, torch.Tensor]:
        hidden_BTH = self.base(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"][..., None].to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
        logits_BL = self.head(pooled_BH)
        loss = torch.nn.functional.cross_entropy(logits_BL.float(), labels)
        return {"loss": loss, "logits": logits_BL}


def peer_arguments(
    folder: str,
    *,
    epochs: float,
    batch_size: int,
    rate: float,
    seed: int,
    tuned: bool,
    device: str = "cpu",
    **more: Any,
) -> Any:
    """TrainingArguments of the peer: its defaults, or tuned as its documents advise for such a machine."""
    import transformers

    options: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"} if tuned else {}
    return transformers.TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=256 if tuned and device != "cpu" else 32,
        learning_rate=rate,
        weight_decay=0.01,
        warmup_steps=0.1,
        use_cpu=device == "cpu",
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
        **options,
        **more,
    )


def trainer(method: str, seed: int, *, tuned: bool) -> dict[str, Any]:
    import datasets
    import transformers

    from tunewise.models.load import describe_base

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(describe_base("bundled:minilm").path)
    texts, targets = sample(seed)
    dev_texts, dev_targets = rows("dev")
    transformers.set_seed(seed)
    model = Peer(method)

    def tokenized(part: list[str], labels: np.ndarray) -> Any:
        table = datasets.Dataset.from_dict({"text": part, "labels": labels.tolist()})
        return table.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=256), batched=True, remove_columns="text"
        )

    import tempfile

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = peer_arguments(scratch, epochs=EPOCHS, batch_size=BATCH, rate=RATE[method], seed=seed, tuned=tuned)
        peer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=tokenized(texts, targets),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        done = peer.train()
        seconds = time.perf_counter() - started
        said = peer.predict(tokenized(dev_texts, dev_targets))
    # Trainer groups by length when it predicts too, so its own order of targets is the one to compare with
    accuracy = float(np.mean(np.asarray(said.predictions).argmax(-1) == said.label_ids))
    return {"seconds": seconds, "dev_accuracy": accuracy, "steps": int(done.global_step)}


def same_losses(method_name: str) -> dict[str, Any]:
    """Largest gap between the losses of both sides, step by step, in fp32 on identical batches (one epoch)."""
    import tempfile

    import peft
    import transformers

    from tunewise.training.batches import epoch_order
    from tunewise.training.optimizer import linear_schedule

    bracket, base = _bracket(method_name, seed=0, dtype="float32", epochs=1)
    loop = bracket.loops[0]
    peer = Peer("full")
    if method_name == "lora":
        with tempfile.TemporaryDirectory() as scratch:
            bracket.predictor(0).save(Path(scratch) / "start")
            peer.base = peft.PeftModel.from_pretrained(
                peer.base, Path(scratch) / "start" / "adapter", is_trainable=True
            )
    order = epoch_order(loop.train_sizes, batch_size=BATCH, seed=loop.plan.seed, epoch=0)
    texts, targets = sample(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.info.path)
    decayed = [p for n, p in peer.named_parameters() if p.requires_grad and not _spared(method_name, n)]
    spared = [p for n, p in peer.named_parameters() if p.requires_grad and _spared(method_name, n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}], lr=RATE[method_name]
    )
    # Trainer's warm-up starts at a rate of 0, ours above it: the check is about the step, so both have one schedule
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: linear_schedule(step, horizon=loop.horizon, warmup_share=0.1)
    )
    peer.eval()  # populations train without the base's dropout
    losses = []
    for batch in order:
        inputs = tokenizer(
            [texts[i] for i in batch], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        loss = peer(labels=torch.as_tensor(targets[batch]), **inputs)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*decayed, *spared], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    bracket.advance(bracket.horizon)
    gaps = np.abs(np.array(bracket.curve(0).train_losses) - np.array(losses))
    return {"steps": len(losses), "largest_gap": float(gaps.max()), "first_loss": losses[0], "last_loss": losses[-1]}


def _spared(method: str, name: str) -> bool:
    """Not decayed: the head's bias; in full fine-tuning also other biases, normalisations and embeddings."""
    parts = ("LayerNorm", "embeddings") if method == "full" else ()
    return name == "head.bias" or (method == "full" and name.endswith("bias")) or any(part in name for part in parts)


def run_side(side: str, method: str, seed: int) -> dict[str, Any]:
    if side == "tunewise":
        return ours(method, seed)
    return trainer(method, seed, tuned=side == "trainer tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--method", choices=("lora", "full"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.side:
        print("RESULT " + json.dumps(run_side(asked.side, asked.method, asked.seed)))
        return
    for method in ("lora", "full"):
        path = Path(__file__).parent / "results" / f"train-step-{method}.json"
        if not path.exists():
            path.write_text(json.dumps(compare(method), indent=1) + "\n", encoding="utf-8")
        print(path.read_text("utf-8"))


def compare(method: str) -> dict[str, Any]:
    """Every side with every seed, in turn."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in SEEDS:
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--method", method, "--seed", str(seed)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            line = next(line for line in printed.split("\n") if line.startswith("RESULT "))
            found[side].append(json.loads(line.removeprefix("RESULT ")))
    medians = {side: statistics.median(run["seconds"] for run in runs) for side, runs in found.items()}
    return {
        "method": method,
        "rows": ROWS,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "threads": torch.get_num_threads(),
        "runs": found,
        "median_seconds": medians,
        "ratio": {side: medians[side] / medians["tunewise"] for side in SIDES[1:]},
        "same_losses": same_losses(method),
        "mean_dev_accuracy": {
            side: statistics.mean(run["dev_accuracy"] for run in runs) for side, runs in found.items()
        },
    }


if __name__ == "__main__":
    main()
