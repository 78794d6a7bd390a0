"""Suggestions stay in the space, differ, and do not repeat what was tried."""

import numpy as np

from tunewise.methods.base import Choice, Real
from tunewise.search.space import OptunaSpace

SPACE = {"rate": Real(1e-5, 1e-2, log=True), "rank": Choice((4, 8))}


def test_suggestions_lie_in_the_space_and_differ() -> None:
    found = OptunaSpace(1, []).ask(SPACE, 6)
    assert len(found) == 6
    assert all(1e-5 <= values["rate"] <= 1e-2 and values["rank"] in (4, 8) for values in found)
    assert len({tuple(values.items()) for values in found}) == 6


def test_few_suggestions_cover_a_rate_evenly() -> None:
    for seed in range(20):
        rates = [values["rate"] for values in OptunaSpace(seed, []).ask({"rate": Real(1e-5, 1e-1, log=True)}, 4)]
        assert {int(np.log10(rate) + 5) for rate in rates} == {0, 1, 2, 3}, "one in each power of ten"


def test_the_same_seed_suggests_the_same() -> None:
    assert OptunaSpace(1, []).ask(SPACE, 3) == OptunaSpace(1, []).ask(SPACE, 3)
    assert OptunaSpace(1, []).ask(SPACE, 3) != OptunaSpace(2, []).ask(SPACE, 3)


def test_what_was_tried_is_not_suggested_again() -> None:
    space = {"rank": Choice((4, 8, 16))}
    assert OptunaSpace(1, [({"rank": 4}, 0.5), ({"rank": 16}, 0.2)]).ask(space, 3) == [{"rank": 8}]


def test_results_draw_suggestions_towards_what_worked() -> None:
    earlier = [
        ({"rate": 10.0**-e, "rank": 4}, abs(e - 4.5)) for e in (2.1, 2.4, 2.7, 3.0, 3.5, 4.0, 4.4, 4.5, 4.6, 4.9)
    ]
    found = OptunaSpace(1, earlier).ask(SPACE, 8)
    near = [values for values in found if 1e-5 <= values["rate"] <= 1e-3]
    assert len(near) >= 6
