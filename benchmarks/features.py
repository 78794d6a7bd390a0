"""Features of a frozen base against sentence-transformers' encode: 10,000 bank questions, the same vectors.

Both sides run in this process, in turn, twice; the ratio is of medians. The peer runs as it comes and at the
batch size that was fastest for it.
"""

import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from sets import data_root

from tunewise.models.load import load_base

REPEATS = 2


def texts() -> list[str]:
    """10,000 different questions."""
    lines = (data_root() / "banking77" / "train.jsonl").read_text("utf-8").split("\n")
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines if line))[:10_000]


def main() -> None:
    from sentence_transformers import SentenceTransformer

    rows = texts()
    base = load_base("bundled:minilm", device="cpu", dtype="float32")
    peer = SentenceTransformer(base.info.path, device="cpu")
    sizes = {size: _seconds(lambda s=size: peer.encode(rows[:1000], batch_size=s)) for size in (16, 32, 64, 128)}
    best = min(sizes, key=sizes.__getitem__)
    sides = {
        "tunewise": lambda: base.features([(row,) for row in rows], "keep_start"),
        "sentence-transformers, defaults": lambda: peer.encode(rows),
        f"sentence-transformers, batch size {best}": lambda: peer.encode(rows, batch_size=best),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    vectors: dict[str, np.ndarray] = {}
    for side in sides.values():
        side()
    for _ in range(REPEATS):
        for name, side in sides.items():
            started = time.perf_counter()
            vectors[name] = np.asarray(side())
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    largest = max(float(np.abs(vectors["tunewise"] - vector).max()) for vector in vectors.values())
    result = {
        "texts": len(rows),
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": {name: medians[name] / medians["tunewise"] for name in medians if name != "tunewise"},
        "largest_difference_of_vectors": largest,
        "same_vectors_to_1e-3": largest < 1e-3,
    }
    path = Path(__file__).parent / "results" / "features.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def _seconds(call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
