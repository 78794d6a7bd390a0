"""Log-probabilities of continuations: the same as the model's own, however much is shared."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunewise.models.answers import scorer_of
from tunewise.models.causal import Causal
from tunewise.models.load import load_base
from tunewise.models.prefix_tree import Forest, Request, bundle_of, forest, prefix_tree
from tunewise.models.score import Scorer
from tunewise.models.tiny_causal import ARCHITECTURES, tiny_causal
from tunewise.models.tree_attention import NotForTrees, _attend, _written_out


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    folder = tiny_causal(tmp_path_factory.mktemp("causal") / request.param, architecture=request.param)
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def ids(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(4, 500, size)


def prompts(examples: int, *, prompt_tokens: int = 40) -> list[Request]:
    """Three prompts, each with the same examples and four labels of one to three tokens, of which two begin alike."""
    rng = np.random.default_rng(0)
    starts = [np.concatenate([[0], ids(rng, prompt_tokens + i)]) for i in range(3)]
    texts = [ids(rng, 3 + i % 7) for i in range(examples)]
    labels = [np.array([5]), np.array([6, 7]), np.array([6, 8, 9]), np.array([10, 11])]
    return [Request(np.concatenate([start, text]), label) for start in starts for text in texts for label in labels]


def own(base: Causal, request: Request) -> np.ndarray:
    """What the whole model says of one request alone."""
    whole = torch.as_tensor(np.concatenate([request.context, request.continuation]))[None]
    with torch.no_grad():
        log_TV = torch.log_softmax(base.whole(input_ids=whole).logits[0].double(), dim=-1)
    first = len(request.context) - 1
    return np.array([float(log_TV[first + k, token]) for k, token in enumerate(request.continuation)])


def test_shared_prompts_give_the_log_probabilities_of_the_whole_model(base: Causal) -> None:
    scorer, requests = Scorer(base), prompts(60)
    found = scorer.score(requests)
    assert (scorer.note is None) == (base.info.architecture != "bloom")  # its attention adds biases of its own
    for request, log_probabilities in list(zip(requests, found, strict=True))[::17]:
        np.testing.assert_allclose(log_probabilities, own(base, request), atol=1e-4)


def test_an_answer_does_not_depend_on_what_is_scored_beside_it(base: Causal) -> None:
    requests = prompts(30)
    together = Scorer(base).score(requests)
    for i in (0, 7, 200):
        np.testing.assert_allclose(Scorer(base).score([requests[i]])[0], together[i], atol=1e-4)
    backwards = Scorer(base).score(requests[::-1])[::-1]
    for one, other in zip(together, backwards, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_context_that_is_another_requests_beginning_is_scored_too(base: Causal) -> None:
    rng = np.random.default_rng(1)
    long = ids(rng, 300 % 120 + 30)
    requests = [Request(long[:n], long[n : n + 2]) for n in range(1, 60, 3)]
    requests += [Request(long[:5], ids(rng, 2)) for _ in range(200)]  # enough below for a trunk
    for request, found in zip(requests, Scorer(base).score(requests), strict=True):
        np.testing.assert_allclose(found, own(base, request), atol=1e-4)


def test_the_same_request_twice_gives_the_same_twice(base: Causal) -> None:
    request = prompts(1)[1]
    one, two = Scorer(base).score([request, request])
    assert one.tolist() == two.tolist()


def test_what_a_layer_refuses_later_is_scored_plainly(base: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = prompts(3)
    scorer = Scorer(base)
    expected = scorer.score(requests)

    def refuse(*_: object, **__: object) -> None:
        raise NotForTrees("a window")

    monkeypatch.setattr(scorer, "_by_tree", refuse)
    for one, other in zip(scorer.score(requests), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert "prompts are computed anew" in str(scorer.note)


def test_a_base_has_one_scorer_and_a_copy_of_it_another(base: Causal) -> None:
    assert scorer_of(base) is scorer_of(base)
    other = copy.copy(base)
    assert scorer_of(other) is not scorer_of(base)
    assert scorer_of(other).base is other


def test_nothing_to_score_gives_nothing(base: Causal) -> None:
    assert Scorer(base).score([]) == []
    assert prefix_tree([]) == []


def test_every_token_that_is_shared_stands_in_the_tree_once() -> None:
    requests = prompts(20, prompt_tokens=30)
    roots = prefix_tree(requests)
    distinct = {tuple(request.read[: n + 1]) for request in requests for n in range(len(request.read))}
    assert sum(len(segment.ids) for root in roots for segment, _ in root.below()) == len(distinct)
    assert sum(root.total for root in roots) == len(distinct)
    wanted = sum(len(request.continuation) for request in requests)
    assert sum(len(segment.marks) for root in roots for segment, _ in root.below()) == wanted


def test_a_token_of_a_bundle_sees_its_ancestors_and_no_others() -> None:
    requests = [Request(np.array([1, 2]), np.array(ids)) for ids in ([3, 4, 9], [3, 5, 9], [6, 7, 9])]
    (root,) = prefix_tree(requests)
    bundle = bundle_of(root)
    paths = {}
    for i, token in enumerate(bundle.ids):
        seen = [int(bundle.ids[j]) for j in np.flatnonzero(bundle.sees[i])]
        paths[int(token)] = seen
    assert paths == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 3, 4], 5: [1, 2, 3, 5], 6: [1, 2, 6], 7: [1, 2, 6, 7]}
    assert dict(zip(bundle.ids.tolist(), bundle.position.tolist(), strict=True)) == {
        1: 0, 2: 1, 3: 2, 4: 3, 5: 3, 6: 2, 7: 3,
    }  # fmt: skip


def paths_of_marks(below: Forest, before: tuple[int, ...] = ()) -> dict[tuple[int, int], tuple[int, ...]]:
    """Of each request's wanted tokens: what is read before it, and itself."""
    found = {}
    for bundle in (*below.bundles, *(trunk.bundle for trunk in below.trunks)):
        size = len(bundle.ids)
        sees = np.tri(size, dtype=bool) if bundle.sees is None else bundle.sees
        for mark in bundle.marks:
            path = before + tuple(bundle.ids[sees[mark.place]].tolist())
            assert bundle.position[mark.place] == len(path) - 1
            found[mark.request, mark.number] = (*path, mark.token)
    for trunk in below.trunks:
        found |= paths_of_marks(trunk.below, before + tuple(trunk.bundle.ids.tolist()))
    return found


@pytest.mark.parametrize("every_trunk", [False, True])
def test_however_a_forest_is_laid_out_each_token_follows_on_its_own_context(every_trunk: bool) -> None:
    rng = np.random.default_rng(2)
    long = ids(rng, 60)
    requests = prompts(60) + [Request(long[:n], ids(rng, 2)) for n in range(1, 60, 3)]
    laid_out = forest(prefix_tree(requests), every_trunk=every_trunk)
    expected = {
        (i, k): (*request.context.tolist(), *request.continuation[: k + 1].tolist())
        for i, request in enumerate(requests)
        for k in range(len(request.continuation))
    }
    assert paths_of_marks(laid_out) == expected


def test_rows_that_happen_to_begin_with_the_same_word_are_parted_and_labels_of_a_row_are_not() -> None:
    rng = np.random.default_rng(3)
    start, words = ids(rng, 100), np.array([[7], [8], [9]])
    rows = [np.concatenate([start, words[i % 3], ids(rng, 60)]) for i in range(9)]
    requests = [Request(row, np.array(label)) for row in rows for label in ([5, 9], [6, 9])]
    laid_out = forest(prefix_tree(requests))
    assert not laid_out.bundles
    (trunk,) = laid_out.trunks
    assert trunk.bundle.ids.tolist() == start.tolist()
    assert [len(bundle.ids) for bundle in trunk.below.bundles] == [1 + 60 + 2] * 9


def test_the_last_layer_is_computed_where_something_is_read(tmp_path: Path) -> None:
    folder = tiny_causal(tmp_path, architecture="llama")
    base = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(base, Causal)
    scorer, requests = Scorer(base), [request for request in prompts(30) if len(request.continuation) == 1]
    scorer.score(requests)
    layers: Any = scorer._tree.layers  # type: ignore[union-attr]
    sizes: list[list[int]] = [[], []]
    layers[0].mlp.gate_proj.register_forward_pre_hook(lambda _, args: sizes[0].append(args[0].shape[1]))
    layers[1].mlp.part.gate_proj.register_forward_pre_hook(lambda _, args: sizes[1].append(args[0].shape[1]))
    scorer.score(requests)
    assert sum(sizes[1]) == len(requests) < sum(sizes[0]) / 5


@pytest.mark.parametrize("masked", [False, True])
def test_attention_written_out_is_that_of_the_kernel(masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 7, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    sees = torch.rand(3, 7, 7) < 0.5
    sees |= torch.eye(7, dtype=torch.bool)
    mask = torch.zeros(3, 7, 7).masked_fill(~sees, -torch.inf) if masked else None
    one = _attend(query, key, value, 0.3, mask=mask, causal=not masked)
    other = _written_out(query, key, value, 0.3, mask=mask, causal=not masked)
    for kernel, written in zip(one, other, strict=True):
        torch.testing.assert_close(kernel, written, atol=1e-5, rtol=1e-5)


def test_trunks_in_which_nothing_is_wanted_hang_at_one_another(base: Causal) -> None:
    rng = np.random.default_rng(0)
    start, *middles = ids(rng, 6), ids(rng, 6), ids(rng, 6)
    requests = [
        Request(np.concatenate([start, middle, [7 + i]]), np.array([9, 10])) for middle in middles for i in range(3)
    ]
    for request, found in zip(requests, Scorer(base).score(requests), strict=True):
        np.testing.assert_allclose(found, own(base, request), atol=1e-4)
