"""Rows shown before a question: the most similar ones, the nearest last, spread out where that is asked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.data.split import k_folds
from tunewise.errors import BundleError, ConfigError, PromptError
from tunewise.methods.base import Context, Fold
from tunewise.methods.folded import open_bracket
from tunewise.methods.retrieval import Retrieval, RetrievalConfig
from tunewise.models.causal import Causal
from tunewise.models.embed import FeatureStore
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.bundle import load_predictor
from tunewise.predictors.neighbours import Neighbours
from tunewise.predictors.prompted import PromptedPredictor
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Demonstration, Prompt
from tunewise.types import Example

WORDS = ["card", "stolen", "film", "dull", "charm", "refund", "order", "code", "screen", "price"]


def demonstrations(n: int) -> tuple[Demonstration, ...]:
    return tuple(Demonstration({"text": f"row {i}"}, f"answer {i}") for i in range(n))


def answers(shown: tuple[Demonstration, ...]) -> list[int]:
    return [int(each.answer.removeprefix("answer ")) for each in shown]


def test_the_nearest_stand_last_by_the_angle_to_the_middle_of_all() -> None:
    # their mean is (10, 0), so that the directions from it are 0, 90, 180 and 270 degrees
    stored_NH = np.array([[11, 0], [10, 1], [9, 0], [10, -1]])
    neighbours = Neighbours(rows=demonstrations(4), vector_NH=stored_NH, count=3)
    question_EH = np.array([[12.0, 1.0], [9.9, 1.0]])
    assert [answers(shown) for shown in neighbours.of(question_EH)] == [[3, 1, 0], [0, 2, 1]]


@pytest.mark.parametrize("diversity", [0.3, 0.5, 0.8])
def test_diverse_rows_are_those_of_the_largest_marginal_relevance(diversity: float) -> None:
    rng = np.random.default_rng(5)
    stored_NH, question_EH = rng.normal(size=(40, 4)), rng.normal(size=(6, 4))
    found = Neighbours(rows=demonstrations(40), vector_NH=stored_NH, count=5, diversity=diversity).of(question_EH)

    def unit(vector: np.ndarray) -> np.ndarray:
        return (vector - stored_NH.mean(axis=0)) / np.linalg.norm(vector - stored_NH.mean(axis=0))

    x = [unit(vector) for vector in stored_NH]
    for vector, shown in zip(question_EH, found, strict=True):
        q, taken = unit(vector), []
        while len(taken) < 5:
            worth = {
                i: (1 - diversity) * (q @ x[i]) - diversity * max((x[i] @ x[j] for j in taken), default=0.0)
                for i in range(40)
                if i not in taken
            }
            taken.append(max(worth, key=lambda i: worth[i]))
        assert answers(shown) == sorted(taken, key=lambda i: float(q @ x[i]))
    assert any(
        set(answers(shown)) != set(answers(near))
        for shown, near in zip(
            found, Neighbours(rows=demonstrations(40), vector_NH=stored_NH, count=5).of(question_EH), strict=True
        )
    )


def test_more_rows_than_there_are_cannot_be_shown() -> None:
    with pytest.raises(BundleError, match=r"3 of 2 rows with 2 vectors at diversity 0.0 make no sense"):
        Neighbours(rows=demonstrations(2), vector_NH=np.eye(2), count=3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"neighbours": 0}, "`neighbours` must be 1 or more"),
        ({"diversity": 1.0}, "`diversity` must be 0 or more and below 1"),
        ({"calibration": "contextual"}, "needs the same prompt for all rows, and each has other neighbours"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RetrievalConfig(**changes)


def rows(n: int, seed: int, **changes) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(map(str, rng.choice(WORDS, size=rng.integers(2, 6)))) + f" {seed} {i}" for i in range(n)]
    return tuple(
        Example(id=f"{seed}-{i}", fields={"text": text}, target=("card", "film")[i % 2], **changes)
        for i, text in enumerate(texts)
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def context(base: Causal, train: tuple[Example, ...], race: tuple[Example, ...], **changes) -> Context:
    task = Task(data=DataConfig(train="in-memory.csv"), budget=Budget(work=10**9), truncation="keep_start", **changes)
    return Context(
        task=task,
        labels=("card", "film"),
        base=base,
        folds=(Fold(train=train, race=race),),
        features=FeatureStore(base, "keep_start", (*train, *race), None),
        work=10**9,
        seed=3,
        train_tokens=base.encode([each.texts for each in train], "keep_start").tokens,
    )


@pytest.mark.parametrize("kind", ["classify", "generate"])
def test_each_row_is_asked_with_its_own_neighbours_and_from_disk_the_same(base: Causal, kind, tmp_path: Path) -> None:
    made = context(base, rows(30, 1), rows(6, 2), kind=kind)
    bracket = Retrieval().open(made, [RetrievalConfig(neighbours=3, diversity=0.3)])
    bracket.advance(1)
    predictor, race = bracket.predictor(0), made.fold.race
    assert isinstance(predictor, (PromptedPredictor, WrittenPredictor))
    found = predictor.predict(race)
    stored = {f"{row.fields['text']}\n{row.target}" for row in made.fold.train}
    assert all(len(each.evidence) == 3 and set(each.evidence) <= stored for each in found)
    assert len({each.evidence for each in found}) > 1
    for row, answer in zip(race, found, strict=True):
        text, _ = predictor.laid_out(row)
        asked = "\n\n".join("{}\nAnswer: {}".format(*shown.rsplit("\n", 1)) for shown in reversed(answer.evidence))
        assert text.startswith(f"{asked}\n\n{row.fields['text']}\nAnswer:")
        # a prompt with the same rows written into it says the same
        shown = tuple(
            Demonstration({"text": each.rsplit("\n", 1)[0]}, each.rsplit("\n", 1)[1])
            for each in reversed(answer.evidence)
        )
        fixed = dataclasses.replace(predictor.prompt, demonstrations=shown)
        if isinstance(predictor, PromptedPredictor):
            alone = PromptedPredictor(base=base, labels=predictor.labels, policy="keep_start", prompt=fixed)
            assert alone.predict([row])[0].scores == pytest.approx(answer.scores, abs=1e-4)
        else:
            written = WrittenPredictor(base=base, policy="keep_start", prompt=fixed, decoding=predictor.decoding)
            assert written.predict([row])[0].text == answer.text
    predictor.save(tmp_path)
    again = load_predictor(tmp_path, lambda name: base)
    loaded = [again.predict([row])[0] for row in race]
    assert [each.evidence for each in loaded] == [each.evidence for each in found]
    assert [each.text for each in loaded] == [each.text for each in found]


def test_neighbours_that_the_window_has_no_room_for_are_no_evidence(base: Causal) -> None:
    long = tuple(dataclasses.replace(row, fields={"text": row.fields["text"] + " the" * 60}) for row in rows(12, 1))
    bracket = Retrieval().open(context(base, long, rows(4, 2)), [RetrievalConfig(neighbours=8)])
    bracket.advance(1)
    predictor = bracket.predictor(0)
    assert isinstance(predictor, PromptedPredictor)
    found = predictor.predict(rows(4, 2))
    assert all(1 <= len(each.evidence) < 8 for each in found)
    assert predictor.given.demonstrations == sum(8 - len(each.evidence) for each in found)


def test_in_cross_fitting_no_row_is_shown_itself_or_its_cluster(base: Causal) -> None:
    both = [dataclasses.replace(row, cluster=f"c{i // 4}") for i, row in enumerate(rows(40, 1))]
    parts = k_folds(both, 3, seed=1)
    folds = tuple(Fold(train=tuple(row for row in both if row not in part), race=part) for part in parts)
    whole = dataclasses.replace(context(base, tuple(both), ()), folds=folds)
    bracket = open_bracket(Retrieval(), whole, [RetrievalConfig(neighbours=4)])
    bracket.advance(1)
    cluster_of = {f"{row.fields['text']}\n{row.target}": row.cluster for row in both}
    answers = bracket.predictions()[0]
    assert len(answers) == 40
    for row, answer in zip(whole.race, answers, strict=True):
        assert len(answer.evidence) == 4
        assert row.cluster not in {cluster_of[text] for text in answer.evidence}


def test_of_several_right_answers_to_one_input_one_is_shown(base: Causal) -> None:
    train = (
        Example(id="1", fields={"text": "card stolen"}, target="first"),
        Example(id="1#2", fields={"text": "card stolen"}, target="second"),
        *rows(6, 1),
    )
    bracket = Retrieval().open(context(base, train, (), kind="generate"), [RetrievalConfig(neighbours=7)])
    bracket.advance(1)
    (answer,) = bracket.predictor(0).predict([Example(id="q", fields={"text": "card stolen"})])
    assert answer.evidence[0] == "card stolen\nfirst"
    assert "card stolen\nsecond" not in answer.evidence
    assert len(answer.evidence) == 7


def test_nothing_is_computed_to_say_what_it_costs(base: Causal) -> None:
    made = context(base, rows(30, 1), rows(6, 2))

    def refuse(examples):
        raise AssertionError("features were computed")

    bare = dataclasses.replace(made, features=refuse)
    assert Retrieval().skip(bare) is None
    config = Retrieval().default(bare)
    bracket = Retrieval().open(made, [config])
    work = bracket.advance(1)
    assert Retrieval().cost(bare, config).work == pytest.approx(work, rel=0.1)


def test_calibration_by_a_row_that_says_nothing_is_refused_where_each_prompt_differs(base: Causal) -> None:
    neighbours = Neighbours(rows=demonstrations(3), vector_NH=np.eye(3), count=1)
    prompt = Prompt(words={"a": "a", "b": "b"})
    with pytest.raises(PromptError, match="needs the same prompt for all rows"):
        PromptedPredictor(
            base=base,
            labels=("a", "b"),
            policy="keep_start",
            prompt=prompt,
            calibration="contextual",
            neighbours=neighbours,
        )


def test_a_damaged_index_is_told_by_its_name(base: Causal, tmp_path: Path) -> None:
    prompt = Prompt(words={"a": "a", "b": "b"})
    neighbours = Neighbours(rows=demonstrations(3), vector_NH=np.ones((3, base.info.hidden_size)), count=1)
    PromptedPredictor(base=base, labels=("a", "b"), policy="keep_start", prompt=prompt, neighbours=neighbours).save(
        tmp_path
    )
    (tmp_path / "shown.safetensors").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"shown.safetensors: cannot be read"):
        load_predictor(tmp_path, lambda name: base)
