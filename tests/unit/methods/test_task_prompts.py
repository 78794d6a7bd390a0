"""What a task says of its prompt holds for every rung that asks, and is checked before anything is tried."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, DecodingConfig, PromptTask, Task
from tunewise.errors import ConfigError, PromptError
from tunewise.methods import get_method
from tunewise.methods.asking import check_prompt, prompt_of, unused_prompt
from tunewise.methods.base import Context, Fold, default_of
from tunewise.models.causal import Causal
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.bundle import load_predictor
from tunewise.predictors.prompted import PromptedPredictor
from tunewise.search.space import FixedGrid
from tunewise.story.session import check_names
from tunewise.types import Example

TEMPLATES = """dataset: tickets
templates:
  a1: !Template
    answer_choices: Billing ||| Login
    id: a1
    jinja: "What is this ticket about?\\n{{text}} ||| It is about {{answer_choices[label]}}"
    name: about
  a2: !Template
    answer_choices: null
    id: a2
    jinja: "Shorter: {{text}} ||| {{summary}}"
    name: shorter
"""


@pytest.fixture
def templates(tmp_path: Path) -> str:
    (tmp_path / "templates.yaml").write_text(TEMPLATES, encoding="utf-8")
    return str(tmp_path / "templates.yaml")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def rows(n: int, seed: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Example(
            id=f"{seed}-{i}",
            fields={"text": " ".join(map(str, rng.choice(["card", "code", "help", "now", "price"], size=4)))},
            target=("billing", "login")[i % 2],
        )
        for i in range(n)
    )


def context(base: Causal, **changes) -> Context:
    train, race = rows(12, 1), rows(4, 2)
    task = Task(data=DataConfig(train="x.csv"), budget=Budget(work=10**9), truncation="keep_start", **changes)
    return Context(
        task=task,
        labels=() if task.kind == "generate" else ("billing", "login"),
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", (*train, *race), None),
        work=10**9,
        seed=3,
        train_tokens=base.encode([each.texts for each in train], "keep_start").tokens,
        race_tokens=base.encode([each.texts for each in race], "keep_start").tokens,
    )


@pytest.mark.parametrize("rung", ["zero_shot", "few_shot", "retrieval"])
def test_every_asking_rung_says_what_a_promptsource_template_says(base, templates, rung, tmp_path: Path) -> None:
    made = context(base, prompt=PromptTask(file=templates, name="about"))
    method = get_method(rung)
    assert method.skip(made) is None
    bracket = method.open(made, [default_of(method, made)])
    bracket.advance(1)
    predictor = bracket.predictor(0)
    assert isinstance(predictor, PromptedPredictor)
    assert predictor.prompt.words == {"billing": "It is about Billing", "login": "It is about Login"}
    row = made.fold.race[0]
    text, tokens = predictor.laid_out(row)
    assert text.endswith(f"What is this ticket about?\n{row.fields['text']} It is about Billing")
    assert base.tokenizer.decode([token.id for token in tokens if token.scored]) == " It is about Billing"
    predictor.save(tmp_path)
    again = load_predictor(tmp_path, lambda name: base)
    before, after = (each.predict(made.fold.race) for each in (predictor, again))
    assert [each.scores for each in after] == [pytest.approx(each.scores, abs=1e-5) for each in before]


def test_cloze_is_trained_on_the_tasks_prompt(base, templates) -> None:
    made = context(base, prompt=PromptTask(file=templates, name="about"))
    method = get_method("cloze")
    assert method.skip(made) is None
    prompt = prompt_of(made, method.default(made))
    assert prompt.source is not None
    assert prompt.words["login"] == "It is about Login"


def test_a_template_and_a_lead_of_the_task_hold_unless_a_rung_has_its_own(base) -> None:
    made = context(base, prompt=PromptTask(template="Ticket: {{ text }}", lead="\nTopic:"), words={"login": "sign-in"})
    row = made.fold.race[0]
    method = get_method("zero_shot")
    own = dataclasses.replace(method.default(made), template="T: {{ text }}")
    bracket = method.open(made, [method.default(made), own])
    bracket.advance(1)
    said = [bracket.predictor(member).laid_out(row)[0] for member in (0, 1)]
    assert said == [f"{start}: {row.fields['text']}\nTopic: billing" for start in ("Ticket", "T")]


def test_texts_are_asked_for_by_a_promptsource_template(base, templates) -> None:
    made = context(
        base,
        kind="generate",
        prompt=PromptTask(file=templates, name="shorter"),
        decoding=DecodingConfig(max_new_tokens=3),
    )
    bracket = get_method("few_shot").open(made, [get_method("few_shot").default(made)])
    bracket.advance(1)
    text, _ = bracket.predictor(0).laid_out(made.fold.race[0])
    assert text.startswith("Shorter: ")
    assert text.endswith(f"\n\nShorter: {made.fold.race[0].fields['text']} billing")


def test_what_nothing_leads_to_is_not_proposed_with_a_prior_of_what_leads_to_it(base, templates) -> None:
    bare = Causal.__new__(Causal)
    bare.__dict__.update({**base.__dict__, "start_ids": ()})
    made = dataclasses.replace(context(base, prompt=PromptTask(file=templates, name="about")), base=bare)
    rng = np.random.default_rng(0)
    tried = get_method("zero_shot").propose(made, FixedGrid(), rng, 9)
    assert {config.calibration for config in tried} == {"none", "contextual"}
    usual = get_method("zero_shot").propose(context(base), FixedGrid(), rng, 9)
    assert {config.calibration for config in usual} == {"none", "contextual", "domain"}


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({"file": "no.yaml"}, "no.yaml: cannot be read"),
        ({"template": "{{ text"}, "line 1"),
        ({"template": "{% include 'x' %}"}, "cannot include"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_before_the_data_are(prompt, sentence) -> None:
    with pytest.raises(PromptError, match=sentence):
        check_names(Task(data=DataConfig(train="not-there.csv"), prompt=PromptTask(**prompt)))


def test_an_unknown_template_of_a_file_is_refused_before_the_data_are_read(templates: str) -> None:
    with pytest.raises(PromptError, match=r"there is no template 'abuot'.*'about'"):
        check_names(Task(data=DataConfig(train="not-there.csv"), prompt=PromptTask(file=templates, name="abuot")))


def test_a_field_that_no_row_has_is_refused_before_anything_is_tried() -> None:
    task = Task(data=DataConfig(train="x.csv"), prompt=PromptTask(template="a\n{{ txet }}"))
    with pytest.raises(PromptError, match=r"prompt, line 2: there is no field 'txet'.*text"):
        check_prompt(task, ("billing", "login"), rows(4, 1), several=False)
    fine = Task(data=DataConfig(train="x.csv"), prompt=PromptTask(template="{{ text }} It was {{ mask }}."))
    assert check_prompt(fine, ("billing", "login"), rows(4, 1), several=False) is not None
    assert check_prompt(Task(data=DataConfig(train="x.csv")), ("billing",), rows(4, 1), several=False) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": {"template": "a", "file": "b.yaml"}}, "`file` and `template` are two ways"),
        ({"prompt": {"name": "a"}}, "`name` is about a PromptSource file"),
        ({"prompt": {"answers": {"a": "b"}}}, "`answers` is about a PromptSource file"),
        ({"prompt": {"tempalte": "a"}}, "task.prompt: there is no key 'tempalte'.*template"),
        ({"prompt": {"file": "b.yaml"}, "words": {"a": "b"}}, "both say what stands for a label"),
        ({"decoding": {"max_new_tokens": 2}}, "`decoding` is about texts to be written"),
        ({"kind": "generate", "decoding": {"top_p": 0.9}}, "at `temperature: 0` none is"),
        ({"kind": "generate", "decoding": {"stop": ["a", ""]}}, "`stop` holds an empty text"),
        ({"kind": "generate", "decoding": {"beams": 0}}, "`beams` must be 1 or more"),
        ({"kind": "generate", "decoding": {"beams": 2, "temperature": 1}}, "Keep one of them"),
        ({"kind": "generate", "decoding": {"choices": ["a"], "regex": "a"}}, "`choices` and `regex` both say"),
        ({"kind": "generate", "decoding": {"regex": "a", "stop": ["b"]}}, "`stop` changes nothing"),
        ({"kind": "generate", "decoding": {"json_schema": {}, "stop": ["b"]}}, "`stop` changes nothing"),
        ({"kind": "generate", "decoding": {"regex": ""}}, "an empty `regex` would make every answer empty"),
        ({"kind": "generate", "decoding": {"choices": ["a", " b"]}}, "texts without blanks around them"),
        ({"kind": "generate", "decoding": {"choices": ["a", "a"]}}, "stands twice among `choices`"),
        ({"kind": "generate", "decoding": {"json_schema": 3}}, "`json_schema` is keys and values"),
        ({"kind": "generate", "decoding": {"max_new_tokens": 0}}, "`max_new_tokens` must be 1 or more"),
    ],
)
def test_prompt_and_decoding_of_a_task_are_read_strictly(changes, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Task.from_dict({"train": "x.csv", **changes})


def test_a_prompt_that_is_never_said_is_said_to_change_nothing(base: Causal) -> None:
    own = Task.from_dict({"train": "x.csv", "prompt": "{{ text }}?"})
    assert unused_prompt(own, [base], several=False) is None
    assert "one label per text" in str(unused_prompt(own, [base], several=True))
    assert "none of these bases" in str(unused_prompt(own, [], several=False))
    assert unused_prompt(Task.from_dict({"train": "x.csv"}), [], several=True) is None


def test_a_schema_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
    raw = {"train": "x.csv", "kind": "generate", "decoding": {"json_schema": "schema.json"}}
    assert Task.from_dict(raw, folder=tmp_path).decoding.json_schema == {"type": "object"}
    with pytest.raises(ConfigError, match=r"`json_schema` names .*scheme.json, which cannot be read as JSON"):
        Task.from_dict({**raw, "decoding": {"json_schema": "scheme.json"}}, folder=tmp_path)


DATE = r"(19|20)\d\d"
KIND = {"type": "object", "properties": {"kind": {"enum": ["bug", "wish"]}}, "required": ["kind"]}


@pytest.mark.parametrize("rung", ["zero_shot", "few_shot", "lora"])
@pytest.mark.parametrize(
    ("decoding", "fits"),
    [
        ({"choices": ("billing", "login", "log")}, lambda text: text in ("billing", "login", "log")),
        ({"regex": DATE}, lambda text: re.fullmatch(DATE, text)),
        ({"json_schema": {**KIND, "additionalProperties": False}}, lambda text: json.loads(text)["kind"]),
    ],
)
def test_what_is_written_keeps_the_tasks_constraint(base, rung, decoding, fits, tmp_path: Path) -> None:
    made = context(base, kind="generate", decoding=DecodingConfig(beams=2, max_new_tokens=16, **decoding))
    method = get_method(rung)
    assert method.skip(made) is None
    config = method.default(made)
    if rung == "lora":
        config = dataclasses.replace(config, epochs=1.0, batch_size=6)
    bracket = method.open(made, [config])
    bracket.advance(bracket.horizon)
    predictor = bracket.predictor(0)
    answers = predictor.predict(made.fold.race)
    assert all(fits(answer.text) and not answer.abstained for answer in answers)
    predictor.save(tmp_path)
    again = load_predictor(tmp_path, lambda name: base)
    assert [each.text for each in again.predict(made.fold.race)] == [each.text for each in answers]


def test_choices_longer_than_an_answer_may_be_are_no_choices(base) -> None:
    long = DecodingConfig(choices=("billing and much more", "login"), max_new_tokens=2)
    why = get_method("zero_shot").skip(context(base, kind="generate", decoding=long))
    assert "of the choices the longest has" in str(why)
    assert "`max_new_tokens` is 2" in str(why)


def test_a_text_alone_is_the_template_and_paths_are_taken_from_the_task_file(tmp_path: Path) -> None:
    assert Task.from_dict({"train": "x.csv", "prompt": "Say {{ text }}"}).prompt.template == "Say {{ text }}"
    task = Task.from_dict({"train": "x.csv", "prompt": {"file": "t.yaml"}}, folder=tmp_path)
    assert task.prompt.file == str(tmp_path / "t.yaml")
