"""What is left out, refused or counted where rungs learn to write."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, PromptTask, Task, from_plain
from tunewise.errors import ConfigError, DataError
from tunewise.methods import get_method
from tunewise.methods.asking import PromptConfig, asking
from tunewise.methods.base import Context, Fold, default_of
from tunewise.methods.writing import WritingBench, as_read, bench_for, cannot_learn
from tunewise.methods.zero_shot import ZeroShotConfig
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.types import Example


def row(number: int, text: str, answer: str) -> Example:
    return Example(id=str(number), fields={"text": text}, target=answer)


ROWS = tuple(row(i, f"the card number {i}", f"card {i}") for i in range(12))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Any:
    return load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")


def context_of(
    base: Any, train: tuple[Example, ...] = ROWS, race: tuple[Example, ...] = ROWS[:3], **task: Any
) -> Context:
    asked = Task(
        name="t",
        kind="generate",
        metric="chrf",
        data=DataConfig(train="x.csv"),
        models=(base.info.path,),
        dtype="float32",
        budget=Budget(work=10**8),
        truncation="keep_start",
        **task,
    )
    context = Context(
        task=asked,
        labels=(),
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", (), None),
        work=10**8,
        seed=1,
    )
    return as_read(context)


def bench(context: Context, **changes: Any) -> WritingBench:
    made = bench_for(context, dataclasses.replace(get_method("lora").default(context), **changes))
    assert isinstance(made, WritingBench)
    return made


def test_what_is_learnt_is_what_zero_shot_reads_and_scores(base: Any) -> None:
    context = context_of(base, instruction="Say it.")
    asked = asking(context, ZeroShotConfig())
    for example, request in zip(ROWS, bench(context).train.requests, strict=True):
        _, tokens = asked.laid_out(example)
        assert request is not None
        assert [*request.context, *request.continuation] == [token.id for token in tokens]
        assert len(request.continuation) == sum(token.scored for token in tokens)
        assert request.continuation[-1] in base.end_ids, "what is learnt ends as what is written does"


def test_another_prompt_of_a_rung_is_learnt_and_served(base: Any) -> None:
    context = context_of(base)
    config = from_plain(
        type(get_method("lora").default(context)), {"learning_rate": 1e-3, "prompt": {"lead": "\nSo:"}}, where="lora"
    )
    made = bench_for(context, config)
    assert isinstance(made, WritingBench)
    first = made.train.requests[0]
    assert first is not None
    assert base.tokenizer.decode(first.context).endswith("So:")
    assert made.said == PromptConfig(lead="\nSo:")


def test_whether_a_rung_can_learn_is_judged_by_its_own_prompt(base: Any) -> None:
    long = PromptTask(lead="the card was stolen " * 400)
    context = context_of(base, prompt=long, settings={"lora": {"prompt": {"lead": "\nSo:"}}})
    assert "take more than the" in (cannot_learn("bitfit", context) or "")
    assert cannot_learn("lora", context) is None


def test_answers_that_do_not_fit_or_say_nothing_are_left_out_and_counted(base: Any) -> None:
    long = row(90, "short", "card stolen " * 400)
    control = row(91, "short", "".join([base.tokenizer.eos_token] * 2))
    made = bench(context_of(base, train=(*ROWS, long, control)))
    assert len(made.train.requests) == len(ROWS)
    assert made.notes[-1] == (
        "lora: 2 training rows are not learnt from: their answers are longer than the room after their prompts, or "
        "have no tokens of their own."
    )
    unread = bench(context_of(base, race=(*ROWS[:2], long)))
    assert [request is None for request in unread.race.requests] == [False, False, True]


def test_control_tokens_in_an_answer_do_not_end_it(base: Any) -> None:
    end = base.tokenizer.eos_token
    made = bench(context_of(base, train=(*ROWS, row(90, "short", f"card {end} stolen"))))
    ids = made.train.requests[-1].continuation.tolist()
    assert [place for place, i in enumerate(ids) if i in base.end_ids] == [len(ids) - 1]
    assert base.tokenizer.decode(ids[:-1]).strip() == f"card {end[0]} {end[1:]} stolen"
    assert "lora: 1 control tokens in training rows were broken up by a space." in made.notes
    (known,) = asked_for(base, f"card {end} stolen")
    assert known.target_tokens == len(ids)


def asked_for(base: Any, target: str) -> list[Any]:
    """What the base that is asked says of this answer."""
    context = context_of(base)
    predictor = asking(context, get_method("zero_shot").default(context))
    return predictor.predict([row(91, "short", target)])


def test_rows_without_a_single_answer_to_learn_are_refused(base: Any) -> None:
    control = tuple(row(i, "short", base.tokenizer.eos_token) for i in range(4))
    context = context_of(base, train=control, race=control)
    with pytest.raises(DataError, match="lora: none of the 4 training rows has an answer that can be learnt"):
        bench_for(context, get_method("lora").default(context))
    reason = get_method("full").skip(context)
    assert reason == "full: of 4 training rows from all over the file none has an answer that fits the base"


def test_a_file_that_begins_with_rows_that_do_not_fit_is_learnt_from_all_the_same(base: Any) -> None:
    control = tuple(row(i, "short", base.tokenizer.eos_token) for i in range(20))
    context = context_of(base, train=(*control, *ROWS), race=ROWS)
    assert get_method("full").skip(context) is None


def test_dev_rows_of_which_nothing_can_be_known_are_refused(base: Any) -> None:
    """A dev loss over no answers would be 0, the best there is."""
    long = tuple(row(80 + i, "short", "card stolen " * 400) for i in range(3))
    context = context_of(base, race=long)
    with pytest.raises(DataError, match="lora: none of the 3 dev rows that are watched has an answer that fits"):
        bench_for(context, get_method("lora").default(context))


def test_a_base_without_an_end_cannot_learn_where_an_answer_ends(base: Any) -> None:
    import copy

    endless = copy.copy(base)
    endless.end_ids = ()
    reason = get_method("lora").skip(context_of(endless))
    assert reason is not None
    assert reason.endswith("has no token that ends a text, so it cannot learn where an answer ends")


@pytest.mark.parametrize(
    ("name", "value"), [("consistency", 1.0), ("class_weights", "balanced"), ("head_init", "zeros")]
)
def test_what_is_about_labels_is_refused(base: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"lora: `{name}` is about labels, and here texts are written"):
        bench(context_of(base), **{name: value})


def test_a_prompt_is_refused_where_there_are_labels(base: Any) -> None:
    context = context_of(base)
    labelled = tuple(dataclasses.replace(example, target=f"l{i % 2}") for i, example in enumerate(ROWS))
    task = dataclasses.replace(context.task, kind="classify", metric="accuracy")
    plain = dataclasses.replace(
        context, task=task, labels=("l0", "l1"), folds=(Fold(train=labelled, race=labelled[:4]),)
    )
    method = get_method("bitfit")
    config = dataclasses.replace(default_of(method, plain), prompt=PromptConfig(), head_init="zeros", epochs=1.0)
    with pytest.raises(ConfigError, match="bitfit: `prompt` is for texts to be written, and here are labels"):
        method.open(plain, [config])


def test_a_soft_prompt_starts_from_labels_only_where_there_are_some(base: Any) -> None:
    context = context_of(base)
    method = get_method("prompt_tuning")

    class Space:
        def ask(self, parameters: Any, n: int) -> list[dict[str, Any]]:
            return [{"start": start} for start in ("labels", "vocabulary", "instruction")][:n]

    found = method.propose(context, Space(), np.random.default_rng(0), 3)
    assert [config.start for config in found] == ["vocabulary", "instruction"]
    config = dataclasses.replace(method.default(context), start="labels")
    with pytest.raises(ConfigError, match="`start: labels` needs labels, and here texts are written"):
        method.open(context, [config])


def test_tokens_are_those_of_prompts_with_their_answers(base: Any) -> None:
    context = context_of(base)
    made = bench(context)
    assert context.train_tokens == pytest.approx(int(made.train.sizes.tokens_E.sum()), rel=0.1)
    assert context.race_tokens == pytest.approx(int(made.race.sizes.tokens_E.sum()), rel=0.1)
    assert context.answering_tokens == pytest.approx(
        asking(context, ZeroShotConfig()).tokens(context.fold.race), rel=0.1
    )
