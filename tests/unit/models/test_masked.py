"""Words at a mask: the log-probabilities of the whole model, whatever is read beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tunewise.models.answers import scorer_of
from tunewise.models.encoder import Encoder
from tunewise.models.load import load_base
from tunewise.models.masked import Masked
from tunewise.models.prefix_tree import Request
from tunewise.models.tiny import ARCHITECTURES, tiny_encoder, tiny_masked
from tunewise.models.tokens import Tokens
from tunewise.types import GAP, NEXT

ANSWERS = [" film", " refund the money", " account", " my order"]
TEXTS = ["the card was stolen", "a film", "please cancel my order and refund the money " * 3]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return tiny_masked(tmp_path_factory.mktemp("masked") / request.param, architecture=request.param)


@pytest.fixture
def base(folder: Path) -> Masked:
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Masked)
    return loaded


def own(folder: Path, text: str, answer: str) -> np.ndarray:
    """What transformers' own model says of the answer's tokens at the masks of a text that it tokenises itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    read = tokenizer(text + tokenizer.mask_token * len(ids) + ".", return_tensors="pt")["input_ids"]
    assert int((read == tokenizer.mask_token_id).sum()) == len(ids)
    with torch.no_grad():
        log_SV = torch.log_softmax(model(input_ids=read).logits[0].double(), -1)[read[0] == tokenizer.mask_token_id]
    return np.array([float(log_SV[i, token]) for i, token in enumerate(ids)])


def asked(base: Masked) -> list[Request]:
    return [request for text in TEXTS for request in base.requests(f"{text}\nAnswer: {GAP}.", ANSWERS)]


def test_scores_are_the_log_probabilities_of_transformers_own_model(folder: Path, base: Masked) -> None:
    found = iter(scorer_of(base).score(asked(base)))
    for text in TEXTS:
        for answer in ANSWERS:
            np.testing.assert_allclose(next(found), own(folder, f"{text}\nAnswer:", answer), atol=1e-4)


def test_an_answer_does_not_depend_on_what_is_scored_beside_it(base: Masked) -> None:
    requests = asked(base)
    together, backwards = scorer_of(base).score(requests), scorer_of(base).score(requests[::-1])[::-1]
    for request, one, other in zip(requests, together, backwards, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
        np.testing.assert_allclose(one, scorer_of(base).score([request])[0], atol=1e-4)


def test_answers_of_one_length_are_read_once(base: Masked) -> None:
    requests = base.requests(f"the card {GAP}.", [" film", " card", " account"])
    sizes = {len(request.continuation) for request in requests}
    distinct = {len(request.continuation): len(request.context) for request in requests}
    assert scorer_of(base).tokens(requests) == sum(distinct[size] for size in sizes)


def test_what_the_vocabulary_is_read_off_gives_the_models_logits(base: Masked) -> None:
    view = base.at_answer()
    tokens = base.prompt_ids([f"{text}\nAnswer: {GAP}." for text in TEXTS])
    wanted = [5, 17, 300]
    weight_SH, bias_S = base.output_rows(wanted)
    for ids in tokens:
        found = view.features_of(Tokens(ids=[ids], types=None, row_S=np.zeros(1, dtype=np.int64), rows=1))[0]
        with torch.no_grad():
            logits_TV = base.whole(input_ids=torch.as_tensor(ids)[None]).logits[0]
        expected = logits_TV[int(np.flatnonzero(ids == base.mask_id)[0]), wanted]
        np.testing.assert_allclose(weight_SH @ found + bias_S, expected, atol=1e-4)
    assert view.at_answer() is view
    assert base.at_answer().origin is base


def test_a_mask_that_a_text_brings_along_is_no_place_for_the_answer(base: Masked) -> None:
    (ids,) = base.prompt_ids([f"a {base.tokenizer.mask_token} film {GAP}.{NEXT}never {base.tokenizer.mask_token}"])
    assert int((ids == base.mask_id).sum()) == 1
    assert int((ids == base.tokenizer.sep_token_id).sum()) == 2


def test_its_vectors_are_those_of_the_base_without_the_head(base: Masked, folder: Path) -> None:
    """A head for words is no part of what other rungs adapt."""
    from transformers import AutoModel

    ids = torch.tensor([[2, 7, 9, 11, 3]])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state
        np.testing.assert_allclose(base.model(input_ids=ids).last_hidden_state, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_base_without_a_head_stays_an_encoder(architecture: str, tmp_path: Path) -> None:
    loaded = load_base(str(tiny_encoder(tmp_path, architecture=architecture)), device="cpu", dtype="float32")
    assert type(loaded) is Encoder


def test_half_a_head_is_none(tmp_path: Path) -> None:
    folder = tiny_masked(tmp_path)
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.endswith("transform.dense.weight"))
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert type(load_base(str(folder), device="cpu", dtype="float32")) is Encoder
