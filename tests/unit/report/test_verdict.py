"""The verdict in a sentence."""

from typing import Any

from tunewise.report.verdict import verdict_words


def by_method(verdict: dict[str, Any], method: str) -> dict[str, Any]:
    return next(rung for rung in verdict["rungs"] if rung["method"] == method)


def choose(verdict: dict[str, Any], method: str) -> None:
    verdict["chosen"] = {"method": method, "base": "bundled:minilm", "why": ""}


def test_a_dearer_rung_that_adds_little_is_not_worth_it(verdict: dict[str, Any]) -> None:
    # 8,060,000 / 212,000 = 38.02
    assert (
        verdict_words(verdict) == "linear_probe: 91.2 % [90.1, 92.3] on 3,080 rows; "
        "lora +0.4 [-0.2, +0.9], 38x dearer: not worth it"
    )


def test_the_best_rung_is_set_against_the_next(verdict: dict[str, Any]) -> None:
    choose(verdict, "lora")
    assert verdict_words(verdict).endswith("; linear_probe -0.4 [-0.9, +0.2], 38x cheaper: worth the cost")


def test_what_has_no_work_is_compared_by_time(verdict: dict[str, Any]) -> None:
    choose(verdict, "lora")
    by_method(verdict, "linear_probe")["work"] = 0
    # 402.0 / 11.8 = 34.07, not 8,060,000 / 11.8
    assert verdict_words(verdict).endswith(", 34x cheaper: worth the cost")


def test_nothing_beats_majority_means_do_not_train(verdict: dict[str, Any]) -> None:
    choose(verdict, "majority")
    assert (
        verdict_words(verdict) == "do not train yet: no rung beats always answering the most frequent label "
        "(11.8 % [10.7, 12.9] on 3,080 rows)"
    )


def test_of_texts_the_floor_is_the_most_frequent_text(verdict: dict[str, Any]) -> None:
    choose(verdict, "majority")
    verdict["kind"] = "generate"
    assert "no rung beats always answering the most frequent text (" in verdict_words(verdict)


def test_an_unresolved_verdict_says_how_many_rows_would_settle_it(verdict: dict[str, Any]) -> None:
    verdict |= {"resolved": False, "rows_to_resolve": 9433}
    words = verdict_words(verdict)
    assert "lora +0.4 [-0.2, +0.9]: too close to tell apart" in words
    assert words.endswith("Not resolved: about 9,500 rows to compare on would settle it, there are 3,080")


def test_an_unresolved_verdict_still_knows_a_clear_loser(verdict: dict[str, Any]) -> None:
    choose(verdict, "lora")
    verdict |= {"resolved": False, "rungs": [by_method(verdict, m) for m in ("retrieval", "lora")]}
    assert "retrieval -3.2 [-3.7, -2.6]: behind on these rows. Not resolved" in verdict_words(verdict)


def test_a_run_that_ended_early_names_the_best_so_far(verdict: dict[str, Any]) -> None:
    verdict["chosen"] = None
    assert verdict_words(verdict).startswith("ended early, nothing is chosen: the best so far on dev is lora, 92.2 %")


def test_a_run_that_measured_nothing_says_so(verdict: dict[str, Any]) -> None:
    verdict |= {"chosen": None, "rungs": [by_method(verdict, "bitfit")]}
    assert verdict_words(verdict) == "ended early: no rung was measured, so nothing is chosen"


def test_several_bases_are_named(verdict: dict[str, Any]) -> None:
    by_method(verdict, "full")["base"] = "bert"
    assert verdict_words(verdict).startswith("linear_probe on bundled:minilm: 91.2 %")


def test_a_lower_log_loss_is_the_better_one(verdict: dict[str, Any]) -> None:
    verdict |= {"metric": "log_loss", "chosen": None}
    assert "the best so far on dev is majority, 0.124" in verdict_words(verdict)


def test_nothing_is_set_against_a_choice_that_the_majority_rung_beats(verdict: dict[str, Any]) -> None:
    by_method(verdict, "majority")["held_out"] = {"score": 0.99, "low": 0.98, "high": 1.0}
    assert verdict_words(verdict) == "linear_probe: 91.2 % [90.1, 92.3] on 3,080 rows"
