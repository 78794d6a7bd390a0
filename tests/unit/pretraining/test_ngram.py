from collections import Counter

import numpy as np
import pytest

from pretraining.ngram import KneserNey, discount, guess_masked

START = 0
TEXTS = [[0, 1, 2, 3, 1, 2], [0, 1, 2, 4], [0, 3, 1, 2, 3], [0, 1, 2, 3, 4, 1]]
V = 6


def by_hand(text: list[int], order: int) -> list[float]:
    """Interpolated Kneser-Ney with a discount of a half, as the textbook defines it, one n-gram at a time."""
    grams = {n: Counter(tuple(t[i : i + n]) for t in TEXTS for i in range(len(t) - n + 1)) for n in range(1, order + 1)}

    def count(gram):
        if len(gram) == order or gram[0] == START:
            return 0 if gram == (START,) else grams[len(gram)][gram]
        return len({longer for longer in grams[len(gram) + 1] if longer[1:] == gram})

    def probability(context, token):
        shorter = probability(context[1:], token) if context else 1 / V
        follow = {w: count((*context, w)) for w in range(V)}
        total = sum(follow.values())
        if not total:
            return shorter
        kept = max(follow[token] - 0.5, 0)
        return (kept + 0.5 * sum(n > 0 for n in follow.values()) * shorter) / total

    return [probability(tuple(text[max(i - order + 1, 0) : i]), text[i]) for i in range(1, len(text))]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_probabilities_are_those_of_the_textbook(order):
    model = KneserNey(np.concatenate(TEXTS), vocabulary=V, order=order, first=START)
    text = [0, 1, 2, 3, 5, 1, 2, 4]
    assert 2.0 ** -model.bits(np.array(text))[1:] == pytest.approx(by_hand(text, order))


def test_a_text_does_not_see_the_one_before_it():
    model = KneserNey(np.concatenate(TEXTS), vocabulary=V, order=4, first=START)
    alone, after = np.array([0, 1, 2, 4]), np.array([0, 3, 3, 0, 1, 2, 4])
    assert model.bits(after)[3:] == pytest.approx(model.bits(alone))
    assert model.bits(alone)[0] == 0


@pytest.mark.parametrize("context", [[], [1, 2], [0, 1, 2], [5, 5], [3, 0, 1]])
def test_a_distribution_agrees_with_the_cost_of_a_token(context):
    model = KneserNey(np.concatenate(TEXTS), vocabulary=V, order=4, first=START)
    found = model.distribution(context)
    assert found.sum() == pytest.approx(1)
    for token in range(1, V):
        assert -np.log2(found[token]) == pytest.approx(model.bits(np.array([*context, token]))[-1])


def test_discounts_follow_the_counts_of_counts():
    # n1 = 4, n2 = 2, n3 = 1, n4 = 1: y = 4 / 8
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 9.0])
    assert discount(counts) == pytest.approx([0, 1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1])


def test_what_was_never_seen_costs_no_infinity():
    # y = 1 / 3, so that 2 - 3 * 6 / 3 would be taken off a count of 2: less than nothing
    assert discount(np.array([1, 2, 3, 3, 3, 3, 3, 3, 4.0])).tolist() == [0, 0.5, 0.5, 0.5]
    assert discount(np.array([7.0])).tolist() == [0, 0.5, 0.5, 0.5]


def test_a_hidden_token_is_guessed_from_both_sides():
    texts = [[0, 1, 2, 3]] * 6 + [[0, 1, 4, 5]] * 4
    model = KneserNey(np.concatenate(texts), vocabulary=V, order=3, first=START)
    hidden = np.zeros(4, dtype=bool)
    hidden[2] = True
    assert guess_masked(model, np.array([0, 1, 4, 5]), 2, hidden) == 4  # after 1 comes 2, before 5 stands 4
    hidden[3] = True
    assert guess_masked(model, np.array([0, 1, 4, 5]), 2, hidden) == 2
