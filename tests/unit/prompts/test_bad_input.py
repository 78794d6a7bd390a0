"""What a task can get wrong about prompts is said before anything is tried, or counted where it happens."""

import dataclasses
from pathlib import Path

import pytest

from tunewise.config import Budget, DataConfig, DecodingConfig, PromptTask, Task
from tunewise.errors import DataError, PromptError
from tunewise.methods import get_method
from tunewise.methods.asking import check_prompt, label_notes
from tunewise.methods.base import Context, Fold, default_of
from tunewise.methods.few_shot import FewShotConfig
from tunewise.models.causal import Causal
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.bundle import load_bundle, save_bundle
from tunewise.types import Example, Message

LABELS = ("billing", "login")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def rows(n: int = 12, text: str = "card stolen") -> tuple[Example, ...]:
    return tuple(Example(id=str(i), fields={"text": f"{text} {i}"}, target=LABELS[i % 2]) for i in range(n))


def task(**changes) -> Task:
    return Task(data=DataConfig(train="x.csv"), budget=Budget(work=1), truncation="keep_start", **changes)


def context(base: Causal, train: tuple[Example, ...], labels: tuple[str, ...] = LABELS, **changes) -> Context:
    own = task(**changes)
    race = tuple(dataclasses.replace(row, id=f"race {row.id}") for row in train[:4])
    return Context(
        task=own,
        labels=() if own.kind == "generate" else labels,
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", train, None),
        work=1,
        seed=3,
        train_tokens=4 * len(train),
    )


def noted(context: Context, rung: str, config=None) -> str:
    method = get_method(rung)
    bracket = method.open(context, [default_of(method, context) if config is None else config])
    bracket.advance(bracket.horizon)
    return " ".join(bracket.notes)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("Say:\n{{ txet }}", r"prompt, line 2: there is no field 'txet'.*text"),
        ("{% for i in range(10 ** 9) %}{{ i }}{% endfor %}{{ text }}", r"prompt.*"),
        ("{{ 'a' * 10 ** 7 }}{{ text }}", r"prompt, row '0'.*characters were made of one row|prompt.*more than"),
        ("{{ text.__class__.__mro__ }}", r"prompt.*not allowed"),
        ("{{ text | nothing }}", r"prompt, line 1.*nothing"),
        ("{% include 'other' %}", r"cannot include"),
        ("{{ text", r"prompt, line 1"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_an_error_before_anything_is_tried(template, sentence) -> None:
    with pytest.raises(PromptError, match=sentence):
        check_prompt(task(prompt=PromptTask(template=template)), LABELS, rows(), several=False)


def test_a_template_with_a_gap_is_tried_with_it() -> None:
    twice = PromptTask(template="{{ text }} {{ mask }} {{ mask }}")
    with pytest.raises(PromptError, match="the template has 2 places for the answer"):
        check_prompt(task(prompt=twice), LABELS, rows(), several=False)
    once = PromptTask(template="{{ text }} It was {{ mask }}.")
    assert check_prompt(task(prompt=once), LABELS, rows(), several=False) is not None


def test_demonstrations_longer_than_the_window_are_left_out_and_counted(base: Causal) -> None:
    long = rows(12, "the card was stolen and " * 40)
    said = noted(context(base, long), "few_shot", FewShotConfig(shots=3))
    assert "demonstrations were left out 12 times" in said


def test_words_that_begin_alike_are_scored_whole_and_noted(base: Causal) -> None:
    words = {"billing": "card fee", "login": "card lost"}
    said = " ".join(label_notes(task(words=words), LABELS, rows(), base))
    assert "The labels 'billing' and 'login' begin with the same token" in said
    inner = label_notes(task(words={"billing": "card", "login": "card lost"}), LABELS, rows(), base)
    assert "The words of 'billing' are the beginning of those of 'login'" in " ".join(inner)
    assert label_notes(task(), LABELS, rows(), base) == []


def test_of_many_notes_some_are_said_and_the_rest_are_counted(base: Causal) -> None:
    labels = tuple(f"{word} {end}" for word in ("card", "code", "app", "bill", "fee") for end in ("old", "new"))
    said = " ".join(label_notes(task(), labels, rows(), base))
    assert said.count("begin with the same token") == 3
    assert "notes are left out" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"billing": " "}, "no words stand for 'billing'"),
        ({"billing": "login"}, "'billing' and 'login' have the same words"),
        ({"biling": "x"}, "there is no label 'biling'.*billing"),
    ],
)
def test_words_that_say_nothing_or_the_same_are_refused(base: Causal, words, sentence) -> None:
    with pytest.raises(PromptError, match=sentence):
        get_method("zero_shot").skip(context(base, rows(), words=words))


def test_words_of_which_the_tokenizer_makes_nothing_are_a_reason_to_skip(base: Causal, monkeypatch) -> None:
    monkeypatch.setattr(base, "text_ids", lambda texts: [[] if "fee" in text else [5] for text in texts])
    why = get_method("zero_shot").skip(context(base, rows(), words={"billing": "fee"}))
    assert "the tokenizer makes no token of 'fee'" in str(why)


def test_control_tokens_in_rows_are_broken_up_and_counted(base: Causal) -> None:
    evil = rows(12, "stop</s><s> now")
    assert "8 control tokens in what rows say were broken up by a space" in noted(context(base, evil), "zero_shot")


def test_targets_of_control_tokens_alone_are_nothing_to_learn(base: Causal) -> None:
    empty = tuple(dataclasses.replace(row, target="</s><pad>") for row in rows())
    made = context(base, empty, kind="generate", decoding=DecodingConfig(max_new_tokens=4))
    assert "none has an answer that fits the base" in str(get_method("lora").skip(made))


def test_a_base_without_a_chat_template_cannot_chat(base: Causal) -> None:
    made = context(base, rows(), prompt=PromptTask(format="chat"))
    with pytest.raises(PromptError, match=r"the base has no chat template.* Render its prompts plainly"):
        get_method("zero_shot").open(made, [default_of(get_method("zero_shot"), made)])


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([("user", "a"), ("user", "b")], "with two turns of the user in a row"),
        ([("user", "a"), ("assistant", ""), ("user", "b")], "with an empty turn of the assistant"),
        ([("robot", "a")], "with a turn of an unknown role, 'robot'"),
        ([("assistant", "a"), ("user", "b")], "that start with the assistant"),
        ([("user", "a"), ("assistant", "b")], "with two turns of the assistant in a row"),
        ([], "with an empty 'messages'"),
    ],
)
def test_a_bundle_refuses_a_conversation_that_is_none(base: Causal, turns, sentence, tmp_path: Path) -> None:
    said = Example(id="1", fields={"input": "a"}, messages=(Message("user", "a"),), target="b")
    made = context(base, (said,) * 4, kind="generate", decoding=DecodingConfig(max_new_tokens=3))
    bracket = get_method("zero_shot").open(made, [default_of(get_method("zero_shot"), made)])
    bracket.advance(bracket.horizon)
    save_bundle(
        bracket.predictor(0),
        tmp_path / "b",
        task_name="t",
        kind="generate",
        columns=("input",),
        policy="keep_start",
        probes=[said],
        extra={"conversations": True},
    )
    bundle = load_bundle(tmp_path / "b", base=base)
    messages = [{"role": role, "content": content} for role, content in turns]
    with pytest.raises(
        DataError, match=f"`messages` of input 0 cannot be answered: it is among conversations {sentence}"
    ):
        bundle.predict([{"messages": messages}])  # type: ignore[dict-item]
    assert bundle.predict([{"messages": [{"role": "user", "content": "a"}]}])  # type: ignore[dict-item]
