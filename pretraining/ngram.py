"""What a 5-gram makes of the same tokens: the baseline of the bases, in bits per byte and in tokens guessed.

    python -m pretraining.ngram --tokens pretraining/build/tokens

Interpolated modified Kneser-Ney (Chen & Goodman 1999, section 3): an n-gram's count, less a discount, shares out the
probability that the shorter n-gram gives; below the highest order what counts is in how many contexts a token was seen.

Axes: N tokens of a stream, K distinct n-grams of an order, V vocabulary.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.corpus import ROOT
from pretraining.pack import IDS, read
from pretraining.tokenizer import BOS, EOS, SPECIAL, VOCABULARY
from tunewise import seeding

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ORDER = 5
UNKNOWN = -1


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order: as (number of the first n-1 tokens) * V + (last token), sorted."""

    key_K: Ints
    less_K: Floats
    """The discounted count of each."""
    total: Floats
    """By the number of the first n-1 tokens: how often they were followed; 0 where never."""
    left: Floats
    """What the discounts left of that, for the shorter n-gram."""


class KneserNey:
    """Probabilities of a token after up to four others; an n-gram does not reach over the <s> that begins a text."""

    def __init__(
        self, tokens_N: Ints, *, vocabulary: int = VOCABULARY, order: int = ORDER, first: int = IDS[BOS]
    ) -> None:
        self.vocabulary, self.order, self.first = vocabulary, order, first
        number_N, keys, seen = self._numbered(tokens_N)
        orders = []
        for n in range(1, order + 1):
            # of the highest order, and where nothing can stand before, n-grams count as often as they were seen
            count_K = seen[n - 1][1].astype(np.float64)
            if n < order:
                longer_first = seen[n][0]
                contexts_K = np.bincount(number_N[n - 1][longer_first], minlength=len(count_K)).astype(np.float64)
                count_K = np.where(self._begins(n, tokens_N, seen[n - 1][0]), count_K, contexts_K)
            if n == 1:  # never to be said
                count_K[keys[0] == first] = 0.0
            contexts = len(keys[n - 2]) if n > 1 else 1
            orders.append(_discounted(keys[n - 1], count_K, contexts, vocabulary))
        self.orders = orders
        self._keys = keys

    def bits(self, tokens_N: Ints) -> Floats:
        """What each token costs, after the others of its text; the <s> that begin texts cost nothing."""
        reaches = [self._reaches(tokens_N, n) for n in range(1, self.order + 1)]
        number_N = self._lookup(tokens_N, reaches)
        probability_N = np.full(len(tokens_N), 1.0 / self.vocabulary)
        for n, grams in enumerate(self.orders, start=1):
            context_N = np.zeros(len(tokens_N), np.int64) if n == 1 else _before(number_N[n - 2])
            if n > 1:
                context_N = np.where(reaches[n - 1], context_N, UNKNOWN)
            probability_N = grams_step(grams, context_N, tokens_N, probability_N, self.vocabulary)
        cost_N = -np.log2(probability_N)
        return np.where(tokens_N == self.first, 0.0, cost_N)

    def distribution(self, context: Sequence[int]) -> Floats:
        """Probabilities of all tokens after these, of which the last four count."""
        context = list(context)[-(self.order - 1) :] if self.order > 1 else []
        if self.first in context:
            context = context[len(context) - 1 - context[::-1].index(self.first) :]
        probability_V = np.full(self.vocabulary, 1.0 / self.vocabulary)
        for n in range(1, len(context) + 2):
            grams, number = self.orders[n - 1], self._number(context[len(context) - n + 1 :])
            if number == UNKNOWN or not grams.total[number]:
                break  # longer contexts contain this one
            low, high = np.searchsorted(grams.key_K, [number * self.vocabulary, (number + 1) * self.vocabulary])
            probability_V = probability_V * (grams.left[number] / grams.total[number])
            probability_V[grams.key_K[low:high] % self.vocabulary] += grams.less_K[low:high] / grams.total[number]
        return probability_V

    def _numbered(self, tokens_N: Ints) -> tuple[list[Ints], list[Ints], list[tuple[Ints, Ints]]]:
        """Of each order: the number of the n-gram that ends at each place, the distinct ones, where and how often."""
        numbers: list[Ints] = []
        keys: list[Ints] = []
        seen: list[tuple[Ints, Ints]] = []
        for n in range(1, self.order + 1):
            key_N = tokens_N if n == 1 else _before(numbers[-1]) * self.vocabulary + tokens_N
            places = np.arange(len(tokens_N)) if n == 1 else np.flatnonzero(self._reaches(tokens_N, n))
            distinct_K, at, number, count_K = np.unique(
                key_N[places], return_index=True, return_inverse=True, return_counts=True
            )
            numbers.append(np.full(len(tokens_N), UNKNOWN))
            numbers[-1][places] = number
            keys.append(distinct_K)
            seen.append((places[at], count_K))
        return numbers, keys, seen

    def _lookup(self, tokens_N: Ints, reaches: list[NDArray[np.bool_]]) -> list[Ints]:
        """Of each order but the highest: the number of the n-gram that ends at each place."""
        numbers = [_find(self._keys[0], tokens_N)]
        for n in range(2, self.order):
            before_N = np.where(reaches[n - 1], _before(numbers[-1]), UNKNOWN)
            found_N = _find(self._keys[n - 1], before_N * self.vocabulary + tokens_N)
            numbers.append(np.where(before_N == UNKNOWN, UNKNOWN, found_N))
        return numbers

    def _number(self, context: Sequence[int]) -> int:
        number = 0
        for n, token in enumerate(context, start=1):
            key = np.array([token if n == 1 else number * self.vocabulary + token])
            number = int(_find(self._keys[n - 1], key)[0])
            if number == UNKNOWN:
                return UNKNOWN
        return number

    def _reaches(self, tokens_N: Ints, n: int) -> NDArray[np.bool_]:
        """Whether the last n tokens at each place are of one text."""
        place_N = np.arange(len(tokens_N))
        start_N = np.maximum.accumulate(np.where(tokens_N == self.first, place_N, 0))
        return place_N - n + 1 >= start_N

    def _begins(self, n: int, tokens_N: Ints, at_K: Ints) -> NDArray[np.bool_]:
        """Whether an n-gram is the beginning of a text."""
        return np.asarray(tokens_N[at_K - n + 1] == self.first)


def grams_step(grams: Grams, context_N: Ints, tokens_N: Ints, shorter_N: Floats, vocabulary: int) -> Floats:
    """The probabilities by one order more; where the context was never followed, those of the shorter n-gram."""
    known_N = context_N != UNKNOWN
    context_N = np.where(known_N, context_N, 0)
    total_N = grams.total[context_N]
    known_N &= total_N > 0
    found_N = _find(grams.key_K, context_N * vocabulary + tokens_N)
    less_N = np.where(found_N == UNKNOWN, 0.0, grams.less_K[np.maximum(found_N, 0)])
    with_it_N = (less_N + grams.left[context_N] * shorter_N) / np.where(total_N > 0, total_N, 1.0)
    return np.where(known_N, with_it_N, shorter_N)


def _before(values_N: Ints) -> Ints:
    return np.concatenate([[UNKNOWN], values_N[:-1]])


def _find(sorted_K: Ints, wanted_N: Ints) -> Ints:
    place_N = np.minimum(np.searchsorted(sorted_K, wanted_N), len(sorted_K) - 1)
    return np.where(sorted_K[place_N] == wanted_N, place_N, UNKNOWN)


def _discounted(key_K: Ints, count_K: Floats, contexts: int, vocabulary: int) -> Grams:
    discounts = discount(count_K)
    off_K = discounts[np.minimum(count_K, 3).astype(np.int64)]
    context_K = key_K // vocabulary if contexts > 1 else np.zeros(len(key_K), np.int64)
    total: Floats = np.bincount(context_K, weights=count_K, minlength=contexts).astype(np.float64)
    left: Floats = np.bincount(context_K, weights=off_K, minlength=contexts).astype(np.float64)
    return Grams(key_K, count_K - off_K, total, left)


def discount(count_K: Floats) -> Floats:
    """What is taken off counts of 0, 1, 2, and 3 or more (Chen & Goodman 1999, equation 26)."""
    n1, n2, n3, n4 = (float(np.sum(count_K == n)) for n in (1, 2, 3, 4))
    if n1 and n2 and n3 and n4:
        y = n1 / (n1 + 2 * n2)
        found: Floats = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found[1:] > 0).all():
            return found
    return np.array([0.0, 0.5, 0.5, 0.5])  # too few to tell; without a discount nothing new could be said


def hidden_places(
    tokens_N: Ints, count: int, rng: np.random.Generator, share: float = 0.15
) -> tuple[Ints, NDArray[np.bool_]]:
    """Some of the tokens that masking hides, and all that it hides beside them."""
    hidden_N = (rng.random(len(tokens_N)) < share) & (tokens_N >= len(SPECIAL))
    places = np.flatnonzero(hidden_N)
    return np.sort(rng.choice(places, size=min(count, len(places)), replace=False)), hidden_N


def guess_masked(model: KneserNey, tokens_N: Ints, place: int, hidden_N: NDArray[np.bool_], tried: int = 50) -> int:
    """The most probable token between what is visible before and after it, of the likeliest after what is before."""
    start = place
    while start > max(place - model.order + 1, 0) and not hidden_N[start - 1]:
        start -= 1
    probability_V = model.distribution(tokens_N[start:place].tolist())
    likely = np.argsort(-probability_V)[: tried + 1]
    candidates = likely[likely != model.first][:tried]  # which begins texts alone
    end = place + 1
    while end < min(place + model.order, len(tokens_N)) and not hidden_N[end] and tokens_N[end] != model.first:
        end += 1
    window_N = tokens_N[start:end].copy()
    score = []
    for candidate in candidates:
        window_N[place - start] = candidate
        score.append(float(model.bits(window_N)[place - start :].sum()))
    return int(candidates[int(np.argmin(score))])


def measure(tokens: Path, *, guesses: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Bits per byte of every held-out part, and the share of hidden tokens and spans that is guessed."""
    train_N = np.asarray(read(tokens, "train").tokens_N, dtype=np.int64)
    model = KneserNey(train_N)
    parts = json.loads((tokens / "manifest.json").read_text("utf-8"))["parts"]
    common = int(np.argmax(np.bincount(train_N[train_N >= len(SPECIAL)])))
    report: dict[str, Any] = {"order": model.order, "trained_on_tokens": len(train_N), "parts": {}}
    for name in sorted(set(parts) - {"train", "questions"}):
        tokens_N = np.asarray(read(tokens, name).tokens_N, dtype=np.int64)
        said_N = (tokens_N != IDS[BOS]) & (tokens_N != IDS[EOS])  # the ends are not bytes of the text
        bits = float(model.bits(tokens_N)[said_N].sum()) / parts[name]["bytes"]
        print(f"{name}: {bits:.3f} bits per byte", flush=True)
        places, hidden_N = hidden_places(tokens_N, guesses, seeding.generator(seed, "guesses", name))
        right = [guess_masked(model, tokens_N, int(p), hidden_N) == tokens_N[p] for p in places]
        after = [
            int(np.argmax(model.distribution(tokens_N[max(p - 4, 0) : p].tolist()))) == tokens_N[p] for p in places
        ]
        report["parts"][name] = {
            "bits_per_byte": bits,
            "guesses": len(places),
            "masked_tokens_unigram": float(np.mean(tokens_N[places] == common)),
            "masked_tokens_5gram": float(np.mean(right)),
            "next_tokens_5gram": float(np.mean(after)),
            "spans_of_3_unigram": float(np.mean([(tokens_N[p : p + 3] == common).all() for p in places])),
            "spans_of_3_5gram": float(np.mean([_span(model, tokens_N, int(p)) for p in places])),
        }
    return report


def _span(model: KneserNey, tokens_N: Ints, place: int, length: int = 3) -> bool:
    """Whether a span is written right from what stands before it, one likeliest token after another."""
    written = tokens_N[max(place - model.order + 1, 0) : place].tolist()
    for offset in range(min(length, len(tokens_N) - place)):
        written.append(int(np.argmax(model.distribution(written))))
        if written[-1] != tokens_N[place + offset]:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, default=ROOT / "pretraining/build/tokens")
    given = parser.parse_args()
    report = measure(given.tokens)
    (given.tokens / "ngram.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
