"""Where the public data sets of the benchmarks lie, and how a task on each is written."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Set:
    """A data set with its given parts, and the reference scores of simple methods on its full train part."""

    name: str
    labels: dict[str, str]
    dev: bool = False
    held_out: str = "test.jsonl"


SETS = {
    "banking77": Set(name="banking77", labels={}),
    "sst2": Set(
        name="sst2",
        labels={
            "positive": "a positive review that praises the film",
            "negative": "a negative review that criticises the film",
        },
        dev=True,
    ),
    "subj": Set(
        name="subj",
        labels={
            "subjective": "a personal opinion about a film",
            "objective": "a factual description of a film's plot",
        },
    ),
    "sms_spam": Set(
        name="sms_spam",
        labels={"ham": "a personal message to a friend", "spam": "an advertisement or a prize scam"},
    ),
}


def data_root() -> Path:
    """The folder of data sets: `TUNEWISE_DATA`, or `shared/data` beside the project."""
    root = Path(os.environ.get("TUNEWISE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        raise SystemExit(f"benchmarks: no data sets at {root}; set TUNEWISE_DATA to their folder.")
    return root
