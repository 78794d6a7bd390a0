"""A cache that grows in place holds what the library's own holds, and leaves what is there where it is."""

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from tunewise.models import growing
from tunewise.models.growing import growing_cache


def some(rng: torch.Generator, positions: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 2, positions, 4, generator=rng)


@pytest.mark.parametrize("room", [0, 1, 5, 64])
def test_it_holds_what_the_library_s_cache_holds(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(growing, "ROOM", room)
    rng = torch.Generator().manual_seed(0)
    own, other = growing_cache(), DynamicCache()
    rows = 3
    for step, positions in enumerate([7, 1, 1, 2, 1, 1, 9, 1]):
        keys, values = some(rng, positions, rows), some(rng, positions, rows)
        for layer in range(2):
            found = own.update(keys + layer, values - layer, layer)
            expected = other.update(keys + layer, values - layer, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert own.get_seq_length() == other.get_seq_length()
        if step in (2, 4):
            at = torch.tensor([1, 0, 1]) if step == 2 else torch.tensor([2, 0])
            own.batch_select_indices(at)
            other.batch_select_indices(at)
            rows = len(at)


def test_a_token_is_written_behind_the_others_which_stay() -> None:
    rng = torch.Generator().manual_seed(0)
    cache = growing_cache()
    first, _ = cache.update(some(rng, 7), some(rng, 7), 0)
    second, _ = cache.update(some(rng, 1), some(rng, 1), 0)
    assert second.data_ptr() == first.data_ptr()


def test_layers_that_look_at_a_window_are_the_library_s() -> None:
    config = AutoConfig.for_model("mistral", num_hidden_layers=2, sliding_window=4)
    assert all(layer.is_sliding for layer in growing_cache(config).layers)
