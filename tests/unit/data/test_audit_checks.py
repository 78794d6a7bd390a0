"""Each check finds what was planted and is quiet on clean rows."""

import functools

import pytest

from tunewise.data.audit import CHECKS, audit
from tunewise.data.audit.duplicates import leakage
from tunewise.data.audit.finding import Finding
from tunewise.data.columns import Columns
from tunewise.data.load import Data
from tunewise.data.sealed import Sealed
from tunewise.types import Example

ENGLISH = "I would like to know where the parcel number {} is at the moment"


def rows(*pairs: tuple[str, str], start: int = 0) -> tuple[Example, ...]:
    return tuple(Example(id=str(start + i), fields={"text": t}, target=label) for i, (t, label) in enumerate(pairs))


def data(train: tuple[Example, ...], dev: tuple[Example, ...] = ()) -> Data:
    seal = Sealed(fingerprint="", source="", n=0, read=functools.partial(tuple, ((), ())))
    labels = tuple(sorted({str(e.target) for e in train}))
    columns = Columns(inputs=("text",), target="label")
    return Data(train=train, dev=dev, held_out=seal, labels=labels, columns=columns, notes=(), fingerprint="")


def findings(check: str, *parts: tuple[Example, ...]) -> list[Finding]:
    return [f for f in audit(data(*parts), length_of=None, max_tokens=None) if f.check == check]


CLEAN = rows(*[(ENGLISH.format(i), "ab"[i % 2]) for i in range(20)])
CLEAN_DEV = rows(*[(ENGLISH.format(i), "ab"[i % 2]) for i in range(20, 26)], start=20)


def test_clean_rows_give_no_warning():
    found = audit(data(CLEAN, CLEAN_DEV), length_of=None, max_tokens=None)
    assert {f.severity for f in found} == {"info"}


def test_repeats_and_leaks_are_counted_whatever_their_case():
    train = (*CLEAN, *rows(("Hello  there", "a"), ("hello there", "a"), ("HELLO THERE", "a"), start=100))
    dev = rows(("hello there ", "a"), ("unseen", "b"), start=200)
    repeats, leak = findings("duplicates", train, dev)
    assert (repeats.severity, repeats.count, repeats.ids) == ("warning", 2, ("100", "101", "102"))
    assert (leak.severity, leak.count, leak.ids) == ("problem", 1, ("200",))
    assert "1 of 2 dev rows have a text that is also in train" in leak.sentence
    assert leakage(train, dev[1:], name="held_out") == []


def test_one_text_with_two_labels_is_a_conflict():
    (found,) = findings("conflicts", (*CLEAN, *rows(("same", "a"), ("Same", "b"), start=100)), CLEAN_DEV)
    assert (found.count, found.ids) == (1, ("100", "101"))
    assert "most often a and b (1 texts)" in found.sentence


def test_small_uneven_and_unmeasured_classes_are_named():
    train = (*CLEAN, *rows(*[(f"rare {i}", "rare") for i in range(4)], start=100))
    spread, few, unseen = findings("balance", train, CLEAN_DEV)
    assert "the largest is 'a' with 10 rows (41.7%), the smallest 'rare' with 4" in spread.sentence
    assert spread.severity == "info"
    assert few.sentence == "1 class has fewer than 5 rows in train: 'rare'."
    assert few.ids == ("100", "101", "102", "103")
    assert unseen.sentence == "1 class has no row in dev and cannot be measured there: 'rare'."


def test_lengths_are_measured_with_the_ruler_of_the_base():
    found = audit(data(CLEAN, CLEAN_DEV), length_of=lambda texts: list(range(len(texts))), max_tokens=23)
    spread, long = [f for f in found if f.check == "lengths"]
    assert "12.5 tokens at the median, 25 at most" in spread.sentence
    assert (long.count, long.ids) == (2, ("24", "25"))
    assert "2 of 26 rows (7.7%) are longer than the 23 tokens" in long.sentence
    assert "14 words at the median" in findings("lengths", CLEAN, CLEAN_DEV)[0].sentence


def test_another_language_is_seen_from_three_rows_on():
    german = [
        (f"Ich komme seit gestern nicht mehr in mein Konto Nummer {i}, bitte helfen Sie mir", "a") for i in range(3)
    ]
    (found,) = findings("languages", (*CLEAN, *rows(*german, start=100)))
    assert (found.severity, found.count, set(found.ids)) == ("warning", 3, {"100", "101", "102"})
    assert "13.0% of a sample of 23 rows is not English by an automatic guess (de 3)" in found.sentence
    (found,) = findings("languages", (*CLEAN, *rows(*german[:2], start=100)))
    assert found.severity == "info"


def test_label_names_that_look_alike_are_warned_about():
    (found,) = findings("label_names", (*CLEAN, *rows(("x y", "B"), start=100)))
    assert found.count == 11
    assert "'B' and 'b' differ only by case" in found.sentence


@pytest.mark.parametrize("slip", ["postive", "posittive", "pasitive", "psoitive", "positiv", "positives"])
def test_a_rare_label_one_letter_from_a_common_one_is_taken_for_a_slip(slip):
    many = [(ENGLISH.format(i), "positive") for i in range(30)]
    (found,) = findings("label_names", rows(*many, ("and this one", slip)))
    assert (found.severity, found.count, found.ids) == ("warning", 1, ("30",))
    assert f"the label '{slip}' has 1 row and is one letter away from 'positive', which has 30 rows" in found.sentence


@pytest.mark.parametrize(("label", "common"), [("type 1x", "type 2x"), ("cat", "cats"), ("pasotive", "positive")])
def test_labels_that_are_short_numbered_or_further_apart_are_names_of_their_own(label, common):
    many = [(ENGLISH.format(i), common) for i in range(30)]
    assert findings("label_names", rows(*many, ("and this one", label))) == []


def test_a_label_with_many_rows_or_beside_few_is_meant():
    both = [(ENGLISH.format(i), ("caring", "daring")[i % 2]) for i in range(60)]
    few = [(ENGLISH.format(i), "caring") for i in range(9)]
    assert findings("label_names", rows(*both)) == []
    assert findings("label_names", rows(*few, ("and this one", "daring"))) == []


def test_odd_characters_are_found_by_kind():
    odd = rows(("caf\ufffd", "a"), ("a\x07b", "b"), ("\u202etxt", "a"), ("line\nbreak\ttab", "a"), start=100)
    found = findings("characters", (*CLEAN, *odd))
    assert [f.ids for f in found] == [("100",), ("101",), ("102",)]
    assert "1 of 24 rows hold the replacement character U+FFFD" in found[0].sentence


def test_every_check_is_registered_and_gives_findings_of_its_name():
    odd = rows(("Hello", "a"), ("hello", "B"), ("\x07", "b"))
    for name in CHECKS:
        found = [f for f in audit(data((*CLEAN, *odd), CLEAN_DEV), length_of=None, max_tokens=None) if f.check == name]
        assert found, name
        assert all(f.sentence.endswith(".") for f in found)
