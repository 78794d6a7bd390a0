"""Set two finished runs side by side: on the same held_out rows where they have them, else as two samples.

Axes: E examples, K statistics.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import RunError
from tunewise.evaluation.compare import Difference, holm, paired
from tunewise.evaluation.intervals import interval, normal_quantile
from tunewise.evaluation.metrics import METRICS
from tunewise.evaluation.metrics.base import Metric
from tunewise.report.record import clean
from tunewise.report.verdict import find_chosen, verdict_words
from tunewise.seeding import generator
from tunewise.types import Prediction, Score, to_plain

SHARED = 0.5
"""Share of either run's held_out rows that must agree for a comparison on those alone."""
COLUMNS = ("method", "base", "id", "text", "target", "label", "confidence", "target_probability")
OPTIONAL = ("cluster", "references", "target_log_probability", "target_tokens", "abstained")

Key = tuple[str, str, tuple[str, ...], int]
"""Id, text and right answers of a row, and which of several equal ones it is."""
Rung = tuple[str, str]
"""Method and base."""


@dataclass(frozen=True)
class Answers:
    """One rung's answers on held_out, by row."""

    prediction: Mapping[Key, Prediction]
    cluster: Mapping[Key, str | None]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a comparison needs of a run."""

    folder: Path
    verdict: Mapping[str, Any]
    labels: tuple[str, ...]
    """Empty where texts are written."""
    answers: Mapping[Rung, Answers]

    @property
    def chosen(self) -> Rung:
        return str(self.verdict["chosen"]["method"]), str(self.verdict["chosen"]["base"])

    @property
    def rows(self) -> tuple[Key, ...]:
        """Of held_out, in the order of the run."""
        return tuple(self.answers[self.chosen].prediction)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A rung of the first run and one of the second; `difference` is the second minus the first."""

    first: str
    second: str
    chosen: bool
    """Whether these are the rungs that the runs chose."""
    first_score: Score
    second_score: Score
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    """By Holm over all comparisons of the two runs."""
    method: str
    finding: str


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Verdicts, pairing, comparisons and notes, JSON-ready.

    Two runs are of the same task where they have the same kind, labels and metric, whatever their names. Compared are
    the two rungs that were chosen, and every rung that both runs have on the same base.

    Raises:
        RunError: a folder has no verdict, a file in it is damaged, or the two answer different questions.
    """
    a, b = read_run(first), read_run(second)
    metric = _metric_of_both(a, b)
    shared, pairing = _pairing(a, b)
    pairs = dict.fromkeys([(a.chosen, b.chosen), *((rung, rung) for rung in a.answers if rung in b.answers)])
    level = float(a.verdict["level"])
    found = [_compared(metric, a, b, pair, shared, level) for pair in pairs]
    adjusted = holm([difference.p for *_, difference in found])
    comparisons = [
        Comparison(
            first=_name(pair[0]),
            second=_name(pair[1]),
            chosen=pair == (a.chosen, b.chosen),
            first_score=scores[0],
            second_score=scores[1],
            difference=difference.difference,
            low=difference.low,
            high=difference.high,
            p=difference.p,
            p_adjusted=p,
            method=difference.method,
            finding=_finding(metric, difference, p, level),
        )
        for pair, (*scores, difference), p in zip(pairs, found, adjusted, strict=True)
    ]
    return {
        "runs": [_summary(run) for run in (a, b)],
        "metric": metric.name,
        "greater_is_better": metric.greater_is_better,
        "level": level,
        "bases": sorted({base for run in (a, b) for _, base in run.answers}),
        "pairing": pairing,
        "comparisons": [to_plain(comparison) for comparison in comparisons],
        "notes": _notes(a, b, comparisons),
    }


def read_run(folder: Path) -> Finished:
    """The run in this folder.

    Raises:
        RunError: it has no verdict or no predictions, or a file in it is damaged.
    """
    verdict = _read_json(folder, "verdict.json")
    if not verdict.get("chosen") or find_chosen(verdict) is None:
        raise RunError(f"compare: {folder} has no verdict yet. Continue it with: tunewise fit --resume {folder}")
    try:
        writes = verdict["kind"] == "generate"
        labels = () if writes else tuple(str(row["label"]) for row in _read_json(folder, "data.json")["labels"])
        answers = _read_answers(folder / "predictions.parquet")
        run = Finished(folder=folder, verdict=verdict, labels=labels, answers=answers)
        rows = run.rows
        float(verdict["level"]), verdict["metric"], verdict["task"]
    except (KeyError, TypeError) as error:
        raise _damaged(folder, "its files do not fit together", error) from error
    if any(answer.prediction.keys() != set(rows) for answer in answers.values()):
        raise _damaged(folder, "its rungs answered different rows")
    if verdict.get("several") or not (writes or {target for _, _, (target, *_), _ in rows} <= set(labels)):
        raise RunError(
            f"compare: {folder} has rows with several labels or none; only runs with one label are compared."
        )
    return run


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"compare: {folder} holds no finished run ({name} is missing). Name a run folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{name} cannot be read", error) from error
    if not isinstance(value, dict):
        raise _damaged(folder, f"{name} is not what it should be")
    cleaned: dict[str, Any] = clean(value)
    return cleaned


def _read_answers(path: Path) -> dict[Rung, Answers]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, filters=[("split", "=", "held_out")])
        rows = table.select([*COLUMNS, *(set(OPTIONAL) & set(table.column_names))]).to_pylist()
    except FileNotFoundError:
        raise RunError(
            f"compare: {path.parent} holds no finished run ({path.name} is missing). Name a run folder."
        ) from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(path.parent, f"{path.name} cannot be read", error) from error
    prediction: dict[Rung, dict[Key, Prediction]] = {}
    cluster: dict[Rung, dict[Key, str | None]] = {}
    seen: Counter[tuple[Rung, str, str, tuple[str, ...]]] = Counter()
    for row in map(clean, rows):
        right = (str(row["target"]), *(row.get("references") or ()))
        rung, content = (row["method"], row["base"]), (row["id"], row["text"], right)
        key = (*content, seen[rung, *content])
        seen[rung, *content] += 1
        prediction.setdefault(rung, {})[key] = _prediction(row)
        cluster.setdefault(rung, {})[key] = row.get("cluster")
    return {rung: Answers(answers, cluster[rung]) for rung, answers in prediction.items()}


def _prediction(row: Mapping[str, Any]) -> Prediction:
    """With the two probabilities that were kept, which is all that a metric of one label asks for."""
    known = {row["target"]: row["target_probability"], row["label"]: row["confidence"]}
    scores = {str(label): float(share) for label, share in known.items() if share is not None}
    return Prediction(
        text=str(row["label"]),
        scores=scores or None,
        target_log_probability=row.get("target_log_probability"),
        target_tokens=row.get("target_tokens"),
        abstained=bool(row.get("abstained")),
    )


def _damaged(folder: Path, what: str, why: object = "") -> RunError:
    words = f" ({' '.join(str(why).split())})" if str(why) else ""
    return RunError(f"compare: {folder} is damaged: {what}{words}. Restore it from a copy, or continue the run.")


def _metric_of_both(a: Finished, b: Finished) -> Metric:
    for key, what in (("kind", "kinds of task"), ("metric", "metrics"), ("signature", "versions of the metric")):
        one, other = a.verdict.get(key), b.verdict.get(key)
        if one != other:
            raise RunError(
                f"compare: the runs have different {what}: {a.folder} {one}, {b.folder} {other}. "
                "Their scores do not mean the same; compare runs of one task."
            )
    metric = METRICS.get(str(a.verdict["metric"]))
    if set(a.labels) != set(b.labels) or (a.labels != b.labels and metric.needs_order):
        only = sorted(set(a.labels) ^ set(b.labels))[:5]
        apart = f"only one of them has {', '.join(map(repr, only))}" if only else "they order their labels differently"
        raise RunError(
            f"compare: {a.folder} and {b.folder} are of different tasks: {apart}. Compare runs with the same labels."
        )
    return metric


def _pairing(a: Finished, b: Finished) -> tuple[tuple[Key, ...] | None, dict[str, Any]]:
    """The rows to compare on, None where the runs are compared as two samples; and what there is to say about it."""
    theirs = set(b.rows)
    shared = tuple(row for row in a.rows if row in theirs)
    n = {"agree": len(shared), "first": len(a.rows), "second": len(b.rows)}
    most = max(n["first"], n["second"])
    if len(shared) == most:
        why = f"both answered the same {most:,} rows of held_out, so differences are paired"
    elif len(shared) >= SHARED * most:
        why = (
            f"{len(shared):,} rows are in both held_out sets (of {n['first']:,} and {n['second']:,}); differences are "
            "paired on these alone"
        )
    else:
        few = "no row is" if not shared else f"only {len(shared):,} {'row is' if len(shared) == 1 else 'rows are'}"
        why = (
            f"{few} in both held_out sets (of {n['first']:,} and {n['second']:,}), so differences are those of two "
            "samples and less sharp"
        )
    is_paired = len(shared) >= SHARED * most
    return (shared if is_paired else None), {"paired": is_paired, **n, "why": why}


def _compared(
    metric: Metric, a: Finished, b: Finished, pair: tuple[Rung, Rung], shared: tuple[Key, ...] | None, level: float
) -> tuple[Score, Score, Difference]:
    statistics, clusters, scores = [], [], []
    for run, rung in zip((a, b), pair, strict=True):
        rows = run.rows if shared is None else shared
        answers = run.answers[rung]
        targets = [right if len(right) > 1 else right[0] for _, _, right, _ in rows]
        statistics.append(metric.statistics(targets, [answers.prediction[row] for row in rows], a.labels))
        of_rows = [answers.cluster[row] for row in rows]
        clusters.append(of_rows if any(cluster is not None for cluster in of_rows) else None)
        rng = generator(0, "compare")
        scores.append(
            interval(
                metric, statistics[-1], n_labels=len(a.labels), clusters=clusters[-1], level=level, rng=rng, draws=2000
            )
        )
    if shared is None:
        return scores[0], scores[1], unpaired(scores[0], scores[1])
    rng = generator(0, "compare", "difference")
    difference = paired(
        metric, statistics[1], statistics[0], n_labels=len(a.labels), clusters=clusters[0], level=level, rng=rng
    )
    return scores[0], scores[1], difference


def unpaired(first: Score, second: Score) -> Difference:
    """The second minus the first, of independent rows, from the two intervals.

    Each side of the difference takes the side of each interval that bears on it (Newcombe, "Interval estimation for the
    difference between independent proportions", 1998, method 10; Zou and Donner, 2008, for any two intervals).
    """
    value = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    z_of_level = normal_quantile((1.0 + first.level) / 2.0)
    toward_zero = (below if value > 0 else above) / z_of_level
    p = 1.0 if value == 0 else 0.0 if toward_zero == 0 else math.erfc(abs(value) / toward_zero / math.sqrt(2.0))
    return Difference(
        difference=value,
        low=value - below,
        high=value + above,
        p=p,
        standard_error=(below + above) / (2 * z_of_level),
        method=f"two samples, from the intervals of both ({first.method}; {second.method})",
    )


def _finding(metric: Metric, difference: Difference, p_adjusted: float, level: float) -> str:
    if p_adjusted > 1.0 - level or difference.difference == 0:
        return "not told apart"
    second = (difference.difference > 0) == metric.greater_is_better
    return f"the {'second' if second else 'first'} run is better"


def _summary(run: Finished) -> dict[str, Any]:
    chosen = find_chosen(run.verdict)
    assert chosen is not None
    return {
        "folder": str(run.folder),
        "task": run.verdict["task"],
        "words": str(run.verdict.get("words") or verdict_words(run.verdict)),
        "chosen": _name(run.chosen),
        "held_out": chosen.get("held_out"),
        "rows": len(run.rows),
        "work": (run.verdict.get("budget") or {}).get("spent", {}).get("work"),
        "openings": (run.verdict.get("held_out_openings") or {}).get("all_runs"),
    }


def _notes(a: Finished, b: Finished, comparisons: Sequence[Comparison]) -> list[str]:
    notes = []
    if a.verdict["level"] != b.verdict["level"]:
        notes.append(f"the runs were asked for different levels; both are shown at {100 * a.verdict['level']:g} %")
    of_choice = next(each for each in comparisons if each.chosen)
    scores = ("first", of_choice.first_score), ("second", of_choice.second_score)
    notes += [f"what the {which} run chose: {score.caution}" for which, score in scores if score.caution]
    alone = [sorted(run.answers.keys() - other.answers.keys()) for run, other in ((a, b), (b, a))]
    for which, rungs in zip(("first", "second"), alone, strict=True):
        if rungs:
            notes.append(f"only the {which} run has {', '.join(map(_name, rungs))}")
    return notes


def _name(rung: Rung) -> str:
    return f"{rung[0]} on {rung[1]}"
