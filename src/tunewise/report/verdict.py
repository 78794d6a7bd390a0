"""The verdict in a sentence: what to use, what the best other rung would add, and whether that is worth its cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.evaluation.choice import rounded_up
from tunewise.evaluation.metrics import METRICS
from tunewise.report import sentences

Rung = Mapping[str, Any]


def rung_name(rung: Mapping[str, Any], rungs: Sequence[Rung]) -> str:
    """The method's name, with its base where the run has several."""
    several = len({other["base"] for other in rungs}) > 1
    return f"{rung['method']} on {rung['base']}" if several else str(rung["method"])


def find_chosen(verdict: Mapping[str, Any]) -> Rung | None:
    """The row of the rung that was chosen, or None where the run ended early."""
    chosen = verdict.get("chosen")
    if chosen is None:
        return None
    same = [r for r in verdict["rungs"] if (r["method"], r["base"]) == (chosen["method"], chosen["base"])]
    return same[0] if same else None


def measured_on(verdict: Mapping[str, Any]) -> str:
    """The part whose scores carry the claims: held_out once it was opened, else dev."""
    chosen = find_chosen(verdict)
    if chosen is not None:
        return "held_out" if sentences.has_score(chosen.get("held_out")) else "dev"
    return "held_out" if any(sentences.has_score(r.get("held_out")) for r in verdict["rungs"]) else "dev"


def scored(verdict: Mapping[str, Any], part: str) -> list[Rung]:
    """The rungs with a score on this part, best first."""
    sign = 1.0 if METRICS.get(verdict["metric"]).greater_is_better else -1.0
    rungs = [r for r in verdict["rungs"] if sentences.has_score(r.get(part))]
    return sorted(rungs, key=lambda r: -sign * float(r[part]["score"]))


def verdict_words(verdict: Mapping[str, Any]) -> str:
    """The verdict in one or two sentences.

    Such as `linear_probe: 91.2 % [90.1, 92.2] on 3,080 rows; lora +0.4 [-0.2, +0.9], 38x dearer: not worth it`.
    `vs_best` is read as this rung minus the best one, on the same rows.
    """
    chosen = find_chosen(verdict)
    if chosen is None:
        return _ended_early(verdict)
    part = measured_on(verdict)
    if chosen["method"] == "majority":
        return _do_not_train(verdict, chosen, part)
    name = rung_name(chosen, verdict["rungs"])
    words = f"{name}: {sentences.points(chosen[part], verdict['metric'])} on {_rows(verdict, part)}"
    against = _against(verdict, chosen, part)
    return ". ".join([f"{words}; {against}" if against else words, *_unresolved(verdict)])


def _rows(verdict: Mapping[str, Any], part: str) -> str:
    rows = sentences.plural(verdict["n"].get(part) or 0, "row")
    return rows if part == "held_out" else f"{rows} of dev"


def _ended_early(verdict: Mapping[str, Any]) -> str:
    ranked = scored(verdict, "dev")
    if not ranked:
        return "ended early: no rung was measured, so nothing is chosen"
    best = ranked[0]
    points = sentences.points(best["dev"], verdict["metric"])
    return (
        f"ended early, nothing is chosen: the best so far on dev is {rung_name(best, verdict['rungs'])}, {points}; "
        "continue with --resume"
    )


def _do_not_train(verdict: Mapping[str, Any], majority: Rung, part: str) -> str:
    points = sentences.points(majority.get(part), verdict["metric"])
    answer = "answering the most frequent " + ("text" if verdict["kind"] == "generate" else "label")
    if verdict.get("several"):
        answer = "giving every text the same labels"
    words = f"do not train yet: no rung beats always {answer} ({points} on "
    return ". ".join([f"{words}{_rows(verdict, part)})", *_unresolved(verdict)])


def _unresolved(verdict: Mapping[str, Any]) -> list[str]:
    if verdict.get("resolved") is not False:
        return []
    rows = verdict.get("rows_to_resolve")
    if rows is None:
        return ["Not resolved: these rows cannot tell the rungs apart"]
    have = verdict["n"].get(measured_on(verdict)) or 0
    return [f"Not resolved: about {rounded_up(rows):,} rows to compare on would settle it, there are {have:,}"]


def _against(verdict: Mapping[str, Any], chosen: Rung, part: str) -> str | None:
    """What the best other rung would change, and the judgement; None where nothing can be set against it."""
    ranked = scored(verdict, part)
    others = [rung for rung in ranked if rung is not chosen and rung["method"] != "majority"]
    if not others:
        return None
    best = ranked[0]
    other = others[0]
    if best is chosen:
        versus, flip = other.get("vs_best"), False
    elif best is other:
        versus, flip = chosen.get("vs_best"), True
    else:
        return None
    if not versus or versus.get("difference") is None:
        return None
    change = f"{rung_name(other, verdict['rungs'])} {sentences.difference(versus, verdict['metric'], flip=flip)}"
    if verdict.get("resolved") is False:
        tells = versus.get("low") is not None and (versus["low"] > 0 or versus["high"] < 0)
        if tells and best is other:
            return f"{change}: better on these rows, which were not used to choose"
        return f"{change}: behind on these rows" if tells else f"{change}: too close to tell apart"
    return f"{change}{_price(chosen, other, best_is_chosen=best is chosen)}"


def _price(chosen: Rung, other: Rung, *, best_is_chosen: bool) -> str:
    unit = "work" if chosen.get("work") and other.get("work") else "seconds"
    ours, theirs = chosen.get(unit), other.get(unit)
    if not ours or not theirs:
        return ""
    if theirs >= ours:
        dearer = f", {sentences.times(theirs, ours)} dearer"
        return f"{dearer}: no gain" if best_is_chosen else f"{dearer}: not worth it"
    cheaper = f", {sentences.times(ours, theirs)} cheaper"
    return f"{cheaper}: worth the cost" if best_is_chosen else cheaper
