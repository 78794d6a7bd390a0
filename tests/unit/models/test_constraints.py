"""What is written under a constraint always keeps it, and is the likeliest that does, step by step."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from tunewise.errors import ConfigError, ModelError
from tunewise.models.causal import Causal
from tunewise.models.constraint import of_choices, of_regex, of_schema, written_ids
from tunewise.models.generate import Decoding, Writer, causal_writer
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bug", "wish"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "maxItems": 2},
    },
    "required": ["kind", "urgency", "tags"],
    "additionalProperties": False,
}
CHOICES = ("billing", "bill", "a crash of the app", "log in")
WAYS = [Decoding(max_new_tokens=60), Decoding(max_new_tokens=60, temperature=1.0), Decoding(max_new_tokens=60, beams=3)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    folder = tiny_causal(tmp_path_factory.mktemp("causal") / request.param, architecture=request.param)
    loaded = load_base(str(folder), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def prompts(base: Causal, count: int = 6) -> list[np.ndarray]:
    return base.prompt_ids([f"the card was stolen {'now ' * i}\nAnswer:" for i in range(count)])


@pytest.mark.parametrize("decoding", WAYS, ids=["greedy", "drawn", "beams"])
def test_an_answer_is_one_of_the_choices(base: Causal, decoding: Decoding) -> None:
    allowed = of_choices(base, "\nAnswer:", [f" {text}" for text in CHOICES])
    answers = causal_writer(base).write(prompts(base), decoding, allowed=allowed)
    assert all(answer.text.strip() in CHOICES and answer.ended for answer in answers)


def test_of_choices_the_likeliest_beginning_is_written_step_by_step(base: Causal) -> None:
    allowed = of_choices(base, "\nAnswer:", [f" {text}" for text in CHOICES])
    ids = written_ids(base, "\nAnswer:", [f" {text}" for text in CHOICES])
    for prompt, answer in zip(
        prompts(base),
        causal_writer(base).write(prompts(base), Decoding(max_new_tokens=30), allowed=allowed),
        strict=True,
    ):
        left, said = [[*own, base.end_ids[0]] for own in ids], []
        while len({own[len(said)] if len(said) < len(own) else None for own in left}) and left[0] != said:
            with torch.no_grad():
                logits_V = base.whole(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1]
            token = max({own[len(said)] for own in left}, key=lambda i: float(logits_V[i]))
            if token == base.end_ids[0]:
                break
            said.append(token)
            left = [own for own in left if own[: len(said)] == said]
        assert list(answer.ids) == said


@pytest.mark.parametrize("decoding", WAYS, ids=["greedy", "drawn", "beams"])
@pytest.mark.parametrize(
    "regex", [r"[0-9]{2,4} (kg|lb)", r"(19|20)\d\d-(0[1-9]|1[0-2])", r"yes|no|not/sure", r"[äö€]{2}"]
)
def test_an_answer_matches_the_whole_expression(base: Causal, decoding: Decoding, regex: str) -> None:
    allowed = of_regex(base, " ", regex)
    for answer in causal_writer(base).write(prompts(base), decoding, allowed=allowed):
        assert answer.ended
        assert answer.text.startswith(" ")
        assert re.fullmatch(regex, answer.text.strip())


@pytest.mark.parametrize("decoding", WAYS, ids=["greedy", "drawn", "beams"])
def test_an_answer_is_json_of_the_schema(base: Causal, decoding: Decoding) -> None:
    allowed = of_schema(base, " ", json.dumps(SCHEMA))
    answers = causal_writer(base).write(prompts(base), decoding, allowed=allowed)
    for answer in answers:
        assert answer.ended
        said = json.loads(answer.text)
        assert list(said) == ["kind", "urgency", "tags"]
        assert said["kind"] in ("bug", "wish")
        assert said["urgency"] in range(1, 6)
        assert len(said["tags"]) <= 2
        assert all(re.fullmatch("[a-z]{1,4}", tag) for tag in said["tags"])


def test_a_constrained_answer_does_not_depend_on_the_others(base: Causal) -> None:
    allowed = of_schema(base, " ", json.dumps(SCHEMA))
    writer: Writer = causal_writer(base)
    together = writer.write(prompts(base), WAYS[0], allowed=allowed)
    again = of_schema(base, " ", json.dumps(SCHEMA))
    alone = [writer.write([each], WAYS[0], allowed=again)[0] for each in prompts(base)]
    assert [row.ids for row in together] == [row.ids for row in alone]


def test_an_answer_that_is_cut_off_says_that_it_did_not_end(base: Causal) -> None:
    allowed = of_regex(base, " ", "[a-z]{30,40}")
    (answer,) = causal_writer(base).write(prompts(base, 1), Decoding(max_new_tokens=5), allowed=allowed)
    assert not answer.ended


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda base: of_regex(base, " ", "((("), "`regex` cannot be read: .*unclosed group"),
        (lambda base: of_schema(base, " ", '{"type": "objekt"}'), "`json_schema` cannot be read: .*objekt"),
    ],
)
def test_what_cannot_be_read_is_refused(base: Causal, make, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(base)


def test_a_choice_without_tokens_and_a_beginning_without_an_end_are_refused(base: Causal) -> None:
    with pytest.raises(ModelError, match="makes nothing of the choice ''"):
        of_choices(base, "a", ["", " b"])
    before = base.end_ids
    try:
        base.end_ids = ()
        assert len(of_choices(base, "", [" crash", " login"])(())) >= 1
        with pytest.raises(ModelError, match="has no token that ends an answer"):
            of_choices(base, "", [" bill", " billing of it", " bill of it"])
        with pytest.raises(ModelError, match="`regex` needs a token that ends an answer"):
            of_regex(base, " ", "a|b")
    finally:
        base.end_ids = before


def test_without_the_library_it_is_said_how_to_get_it(base: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"need the package llguidance.*pip install 'tunewise\[constrained\]'"):
        of_regex(base, " ", "a")
