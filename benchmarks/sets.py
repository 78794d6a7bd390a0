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
    metric: str = "accuracy"


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
    "sst5": Set(
        name="sst5",
        labels={
            "very negative": "a review that finds the film terrible",
            "negative": "a review that dislikes the film",
            "neutral": "a review that is neither for nor against the film",
            "positive": "a review that likes the film",
            "very positive": "a review that finds the film wonderful",
        },
        dev=True,
    ),
    "cola": Set(
        name="cola",
        labels={"acceptable": "a grammatical sentence", "unacceptable": "an ungrammatical sentence"},
        # its test part has no public labels: the part from the same sources is held out, and dev is split off train
        held_out="dev.jsonl",
    ),
    "ag_news": Set(
        name="ag_news",
        labels={
            "World": "world politics",
            "Sports": "sports",
            "Business": "business and the economy",
            "Sci/Tech": "science and technology",
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
