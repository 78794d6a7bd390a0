"""Splits follow content: stratified, never through a cluster or between equal texts, in any row order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.data.normal import normal_texts
from tunewise.data.split import content_digest, few_shots, k_folds, race_and_choose, split_digest, split_off
from tunewise.types import Example


def rows(counts: dict[str, int], **more: str) -> list[Example]:
    made = [(label, i) for label, count in counts.items() for i in range(count)]
    return [Example(id=f"{label}{i}", fields={"text": f"{label} says {i}"}, target=label, **more) for label, i in made]


def ids(examples) -> set[str]:
    return {example.id for example in examples}


def test_every_class_gives_its_share():
    kept, part = split_off(rows({"a": 100, "b": 50, "c": 10}), 0.2, seed=0, name="dev")
    assert Counter(e.target for e in part) == {"a": 20, "b": 10, "c": 2}
    assert len(kept) == 128


def test_small_remainders_still_add_up_to_the_share():
    # 7 classes of 3 rows: 0.6 each, 4.2 in all, so 4 classes give one row
    _, part = split_off(rows({c: 3 for c in "abcdefg"}), 0.2, seed=0, name="dev")
    assert len(part) == 4
    assert max(Counter(e.target for e in part).values()) == 1


def test_row_order_does_not_matter_and_seed_and_name_do():
    examples = rows({"a": 60, "b": 40})
    shuffled = [examples[i] for i in np.random.default_rng(0).permutation(len(examples))]
    part = ids(split_off(examples, 0.2, seed=0, name="dev")[1])
    assert ids(split_off(shuffled, 0.2, seed=0, name="dev")[1]) == part
    assert ids(split_off(examples, 0.2, seed=1, name="dev")[1]) != part
    assert ids(split_off(examples, 0.2, seed=0, name="held_out")[1]) != part


def test_ids_do_not_matter_to_the_split():
    examples = rows({"a": 60, "b": 40})
    renamed = [Example(id=f"x{i}", fields=e.fields, target=e.target) for i, e in enumerate(examples)]
    texts = [{e.fields["text"] for e in split_off(some, 0.2, seed=0, name="dev")[1]} for some in (examples, renamed)]
    assert texts[0] == texts[1]


def test_equal_texts_are_never_apart():
    texts = [f"Say  {i % 40}" if i < 60 else f"say {i % 40}" for i in range(120)]
    examples = [Example(id=str(i), fields={"t": t}, target="ab"[i % 2]) for i, t in enumerate(texts)]
    kept, part = split_off(examples, 0.3, seed=0, name="dev")
    assert part
    assert not {normal_texts(e.texts) for e in kept} & {normal_texts(e.texts) for e in part}


def test_a_cluster_is_never_apart_also_through_equal_texts():
    examples = [
        Example(id=f"{c}.{i}", fields={"t": "shared" if (c, i) in ((0, 0), (1, 0)) else f"{c} {i}"},
                target="ab"[i % 2], cluster=f"c{c}")
        for c in range(30) for i in range(4)
    ]  # fmt: skip
    kept, part = split_off(examples, 0.3, seed=3, name="dev")
    assert 24 <= len(part) <= 48
    assert not {e.cluster for e in kept} & {e.cluster for e in part}
    assert len({e.id in ids(part) for e in examples if e.cluster in ("c0", "c1")}) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(0, 30)), min_size=1, max_size=60))
def test_nothing_is_lost_and_every_class_can_be_learnt(drawn):
    examples = [
        Example(id=str(i), fields={"t": f"text {text}"}, target=label, cluster=f"c{cluster}" if cluster else None)
        for i, (label, cluster, text) in enumerate(drawn)
    ]
    kept, part = split_off(examples, 0.25, seed=0, name="dev")
    assert sorted([*ids(kept), *ids(part)]) == sorted(ids(examples))
    assert {e.target for e in kept} == {e.target for e in examples}
    assert not {e.cluster for e in kept if e.cluster} & {e.cluster for e in part}


def test_a_class_with_one_row_stays():
    kept, _ = split_off(rows({"a": 50, "rare": 1}), 0.5, seed=0, name="dev")
    assert "rare0" in ids(kept)


def test_dev_is_halved_by_content_only_when_it_is_large():
    small, large = rows({"a": 200, "b": 199}), rows({"a": 200, "b": 200})
    assert race_and_choose(small) == (tuple(small), tuple(small))
    race, choose = race_and_choose(large)
    assert (len(race), len(choose)) == (200, 200)
    assert ids(race) | ids(choose) == ids(large)
    assert ids(race_and_choose(large[::-1])[0]) == ids(race)


def test_digests_ignore_order_and_notice_change():
    examples = rows({"a": 3})
    assert split_digest(examples) == split_digest(examples[::-1])
    assert content_digest(examples) == content_digest(examples[::-1])
    renamed = [Example(id="new", fields=examples[0].fields, target="a"), *examples[1:]]
    assert split_digest(renamed) != split_digest(examples)
    assert content_digest(renamed) == content_digest(examples)
    with pytest.raises(AssertionError):
        assert content_digest(examples[:2]) == content_digest(examples)


def test_folds_hold_every_row_once_and_every_class_in_the_rest() -> None:
    rows = [Example(id=str(i), fields={"t": f"text {i}"}, target="ab"[i % 5 == 0]) for i in range(43)]
    parts = k_folds(rows, 4, seed=3)
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in rows)
    assert sorted(map(len, parts)) == [10, 11, 11, 11]
    assert all({e.target for e in part} == {"a", "b"} for part in parts)


def test_there_are_no_more_folds_than_groups() -> None:
    rows = [Example(id=str(i), fields={"t": f"text {i}"}, target="ab"[i % 2], cluster=f"c{i % 3}") for i in range(12)]
    parts = k_folds(rows, 5, seed=0)
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in rows)
    clusters = [{e.cluster for e in part} for part in parts]
    assert all(parts)
    assert sum(map(len, clusters)) == 3


def test_shots_are_drawn_per_class_and_another_draw_is_another() -> None:
    rows = [Example(id=str(i), fields={"t": f"text {i}"}, target="abc"[i % 3]) for i in range(60)]
    rows.append(Example(id="x", fields={"t": "rare"}, target="d"))
    first, again, other = (few_shots(rows, 4, draw=draw) for draw in (0, 0, 1))
    assert [e.id for e in first] == [e.id for e in again]
    assert {e.id for e in first} != {e.id for e in other}
    assert Counter(e.target for e in first) == {"a": 4, "b": 4, "c": 4, "d": 1}
    assert few_shots(list(reversed(rows)), 4, draw=0) == tuple(reversed(first)), "the order of rows does not matter"
