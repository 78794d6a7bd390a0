"""Labels have the order that the task gives or that their numbers have; a wrong order is answered in a sentence."""

import pytest

from tunewise.config import DataConfig, Task
from tunewise.data.load import load_data
from tunewise.data.order import ordered
from tunewise.errors import ConfigError, DataError


def task(**keys) -> Task:
    return Task(data=DataConfig(train="x.csv"), **keys)


def rows(labels: str | list[str], n: int = 60) -> list[dict[str, str]]:
    return [{"text": f"row number {i}", "label": labels[i % len(labels)]} for i in range(n)]


def test_whole_numbers_are_a_scale_by_value_and_that_is_said():
    order, said = ordered({"10", "9", "-1", "2.0"}, task())
    assert order == ("-1", "2.0", "9", "10")
    assert said == (
        "the labels are ordered, -1 < 2.0 < 9 < 10 (detected; set `ordinal: false` if the numbers are only names)."
    )


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        (["0", "1"], {}),
        ([str(i) for i in range(12)], {}),
        (["1", "2", "2.5"], {}),
        (["bad", "good"], {}),
        (["1", "2", "3"], {"ordinal": False}),
    ],
)
def test_labels_that_need_not_be_a_scale_are_none(labels, keys):
    assert ordered(labels, task(**keys)) == (None, None)


def test_a_task_can_say_that_its_numbers_are_a_scale():
    assert ordered(["1", "0"], task(ordinal=True))[0] == ("0", "1")
    order, said = ordered([str(i) for i in range(20)], task(ordinal=True))
    assert order == tuple(str(i) for i in range(20))
    assert "0 < 1 < 2 < ... < 18 < 19 (as the task says)" in str(said)


def test_words_have_no_order_of_their_own():
    with pytest.raises(
        DataError, match=r"should have an order, but 'bad' is not a whole number. Give `order: \[...\]`"
    ):
        ordered(["bad", "1"], task(ordinal=True))


def test_a_given_order_holds_exactly_the_labels():
    assert ordered(["good", "bad", "ok"], task(order=("bad", "ok", "good")))[0] == ("bad", "ok", "good")
    with pytest.raises(DataError, match=r"must hold every label, but 'good' of the training rows is not in it\."):
        ordered(["good", "bad"], task(order=("bad", "god")))
    with pytest.raises(DataError, match=r"names 'ok', which no training row has\. Known: bad, good\."):
        ordered(["good", "bad"], task(order=("bad", "ok", "good")))


def test_an_order_that_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match=r"`order` names each label once.*but 'a' stands there twice"):
        task(order=("a", "b", "a"))
    with pytest.raises(ConfigError, match=r"`order` names each label once.*but `ordinal` is false"):
        task(order=("a", "b"), ordinal=False)
    with pytest.raises(ConfigError, match=r"no key 'ordnal'. Did you mean 'ordinal'"):
        Task.from_dict({"train": "x.csv", "ordnal": True})


def test_numbers_in_the_order_are_read_as_the_labels_they_are():
    assert Task.from_dict({"train": "x.csv", "order": [3, 1, 2]}).order == ("3", "1", "2")


def test_loaded_labels_go_from_the_lowest_to_the_highest():
    given = load_data(Task.from_dict({"train": rows(["good", "bad", "ok"]), "order": ["bad", "ok", "good"]}))
    assert (given.labels, given.ordered) == (("bad", "ok", "good"), True)
    found = load_data(Task.from_dict({"train": rows(["10", "9", "1"])}))
    assert (found.labels, found.ordered) == (("1", "9", "10"), True)
    assert any("the labels are ordered, 1 < 9 < 10 (detected" in note for note in found.notes)
    names = load_data(Task.from_dict({"train": rows(["10", "9", "1"]), "ordinal": False}))
    assert (names.labels, names.ordered) == (("1", "10", "9"), False)
