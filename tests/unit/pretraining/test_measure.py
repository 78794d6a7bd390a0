"""What a base is measured by: each token once, at the place that was asked, whatever the windows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretraining.measure import around, bits_per_byte, masked_tokens, spans, windows
from pretraining.pack import IDS
from pretraining.tokenizer import EOS, MASK

VOCABULARY = 97
TOKENS = np.random.default_rng(0).integers(len(IDS), VOCABULARY, size=1500)


@pytest.mark.parametrize("tokens", [2, 16, 17, 29, 100])
def test_every_token_but_the_first_counts_once(tokens: int) -> None:
    counted = []
    for start, end, first in windows(tokens, 16):
        assert 0 <= start < end <= tokens
        assert end - start <= 16
        assert first - start >= min(4, first)
        counted += range(first, end)
    assert counted == list(range(1, tokens))


class Foresees:
    """A decoder that gives the token that is one higher a share of the probability, and the others the rest evenly."""

    def __init__(self, share: float) -> None:
        self.config = SimpleNamespace(max_position_embeddings=16)
        self._share = share

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = torch.full((*input_ids.shape, VOCABULARY), (1 - self._share) / (VOCABULARY - 1))
        logits.scatter_(-1, ((input_ids + 1) % VOCABULARY)[..., None], self._share)
        return SimpleNamespace(logits=logits.log())


class Counts:
    """A tokenizer whose tokens of any text of n characters are 1 to n."""

    bos_token_id = 0

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(range(1, len(text) + 1)))


def test_bits_are_of_all_tokens_and_of_no_filling() -> None:
    texts = ["é" * 50, "a" * 7, "b"]
    bits = bits_per_byte(Foresees(0.5), Counts(), texts)
    assert bits == pytest.approx(58 * 1.0 / (100 + 7 + 1), rel=1e-5)


@pytest.mark.parametrize(("place", "start"), [(0, 0), (5, 0), (700, 444), (1499, 988)])
def test_a_row_has_the_place_in_the_middle_where_it_can(place: int, start: int) -> None:
    row = around(TOKENS, place)
    assert (row.start, row.stop) == (start, start + 512)


class Knows:
    """Fills masks, or the span behind a sentinel, with what stood there `shift` tokens on."""

    def __init__(self, shift: int) -> None:
        self._shift = shift

    def _at(self, shown: list[int], gap: int) -> int:
        """Where in the text the gap is, by the eight tokens before it or after it."""
        for n in range(len(TOKENS)):
            before, after = TOKENS[max(0, n - gap) : n], shown[:gap]
            if len(before) == gap and before.tolist() == after:
                return n
        raise AssertionError("the row is not of the text")

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        shown = input_ids[0].tolist()
        gaps = [i for i, token in enumerate(shown) if token == IDS[MASK]]
        start = self._at(shown, gaps[0])  # tokens before the first mask are visible
        logits = torch.zeros(1, len(shown), VOCABULARY)
        for gap in gaps:
            logits[0, gap, TOKENS[(start - gaps[0] + gap + self._shift) % len(TOKENS)]] = 1
        return SimpleNamespace(logits=logits)

    def generate(self, asked: torch.Tensor, *, max_new_tokens: int, do_sample: bool) -> torch.Tensor:
        shown, sentinel = asked[0].tolist(), IDS["<extra_id_0>"]
        assert shown[-1] == IDS[EOS]
        gap = shown.index(sentinel)
        at = self._at(shown, gap) + self._shift
        return torch.tensor([[IDS["<pad>"], sentinel, *TOKENS[at : at + 3].tolist()][: 1 + max_new_tokens]])


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (1, 0.0)])
def test_guesses_are_read_at_the_place_that_was_hidden(shift: int, share: float) -> None:
    places = np.array([40, 700, 1300])
    hidden_N = np.zeros(len(TOKENS), dtype=bool)
    hidden_N[[*places, 45, 720, 1200]] = True
    assert masked_tokens(Knows(shift), TOKENS, places, hidden_N) == share
    assert spans(Knows(shift), TOKENS, places) == share
