"""Log-probabilities of continuations: the same as the model's own, however much is shared."""

import copy

import numpy as np
import pytest
import torch

from tunewise.models.answers import scorer_of
from tunewise.models.causal import Causal
from tunewise.models.load import load_base
from tunewise.models.prefix_tree import Request, bundle_of, prefix_tree
from tunewise.models.score import Scorer
from tunewise.models.tiny_causal import ARCHITECTURES, tiny_causal
from tunewise.models.tree_attention import NotForTrees


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
