"""Labels that are written: parsed where they are a label's words, wrong where they are not, never mapped in silence."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tunewise.config import Budget, DataConfig, Task
from tunewise.errors import BundleError, ConfigError, ModelError
from tunewise.evaluation.metrics import METRICS
from tunewise.methods import get_method
from tunewise.methods.asking import could_write
from tunewise.methods.base import Context, Fold
from tunewise.methods.few_shot import FewShotConfig
from tunewise.methods.retrieval import RetrievalConfig
from tunewise.methods.zero_shot import ZeroShot, ZeroShotConfig
from tunewise.models.causal import Causal
from tunewise.models.embed import FeatureStore
from tunewise.models.generate import Written
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.predictors.bundle import load_bundle, load_predictor, save_bundle
from tunewise.predictors.files import read_settings
from tunewise.predictors.written_label import WrittenLabelPredictor, labels_by_words, plainly
from tunewise.runs import Run
from tunewise.search.arena import Arena
from tunewise.search.budget import Clock
from tunewise.search.climb import Rung
from tunewise.search.finalists import Measured
from tunewise.search.saved import race_predictions
from tunewise.search.space import FixedGrid
from tunewise.search.stopper import Stopper
from tunewise.search.trial import run_bracket
from tunewise.search.watch import Quiet
from tunewise.story.outcome import unparsable_notes
from tunewise.types import Example, Finished, Prediction, Score

LABELS = ("crash", "login")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Causal:
    loaded = load_base(str(tiny_causal(tmp_path_factory.mktemp("base"))), device="cpu", dtype="float32")
    assert isinstance(loaded, Causal)
    return loaded


def context(base: Causal, **changes) -> Context:
    words = ["app error screen", "password account code"]
    rows = [
        Example(id=str(i), fields={"text": f"{words[i % 2]} {'now ' * (i % 5)}{i}"}, target=LABELS[i % 2])
        for i in range(20)
    ]
    task = Task(
        data=DataConfig(train="x.csv"),
        budget=Budget(work=10**9),
        truncation="keep_start",
        words={"crash": "the app fails"},
        **changes,
    )
    return Context(
        task=task,
        labels=LABELS,
        base=base,
        folds=(Fold(train=tuple(rows[:12]), race=tuple(rows[12:])),),
        features=FeatureStore(base, "keep_start", rows, None),
        work=10**9,
        seed=3,
        train_tokens=base.encode([each.texts for each in rows[:12]], "keep_start").tokens,
    )


def made(context: Context, answer: str) -> WrittenLabelPredictor:
    bracket = ZeroShot().open(context, [ZeroShotConfig(answer=answer)])
    bracket.advance(1)
    predictor = bracket.predictor(0)
    assert isinstance(predictor, WrittenLabelPredictor)
    return predictor


def saying(predictor: WrittenLabelPredictor, texts: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def write(prompts, decoding, *, allowed=None) -> list[Written]:
        return [Written(ids=(), text=text, log_probability=-1.0, ended=True) for text in texts]

    monkeypatch.setattr(predictor.writer, "write", write)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" the app fails", "crash"),
        (" The  app FAILS.", "crash"),
        (' "login"', "login"),
        (" crash", "(unparsable) crash"),
        (" the app fails and more", "(unparsable) the app fails and more"),
        (" not login", "(unparsable) not login"),
        ("", "(unparsable) "),
    ],
)
def test_only_a_labels_own_words_are_that_label(base, said, answer, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = made(context(base), "written")
    saying(predictor, [said], monkeypatch)
    (found,) = predictor.predict([Example(id="1", fields={"text": "x"}, target="crash")])
    assert found.text == answer
    assert found.abstained == answer.startswith("(unparsable)")
    assert found.scores is None


def test_words_that_differ_by_case_alone_are_told_apart_by_it() -> None:
    found = labels_by_words({"a": "US", "b": "us", "c": "Them"})
    assert found == {"US": "a", "us": "b", "Them": "c", "them": "c"}
    assert plainly("US") == "us"


def test_unparsable_answers_are_wrong_and_counted(base, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = made(context(base), "written")
    saying(predictor, [" the app fails", " crash", " login", " who knows"], monkeypatch)
    rows = [
        Example(id=str(i), fields={"text": "x"}, target=t) for i, t in enumerate(["crash", "crash", "login", "login"])
    ]
    answers, targets = predictor.predict(rows), [str(row.target) for row in rows]
    for name, value in (("accuracy", 0.5), ("unparsable", 0.5)):
        metric = METRICS.get(name)
        assert metric.aggregate(metric.statistics(targets, answers, LABELS), len(LABELS)) == value


def test_held_to_the_words_every_answer_is_a_label(base, tmp_path: Path) -> None:
    made_context = context(base)
    predictor = made(made_context, "constrained")
    race = made_context.fold.race
    answers = predictor.predict(race)
    assert {answer.text for answer in answers} <= set(LABELS)
    assert not any(answer.abstained for answer in answers)
    assert [predictor.predict([row])[0].text for row in race] == [answer.text for answer in answers]
    text, tokens = predictor.laid_out(race[0])
    assert text.endswith("\nAnswer: the app fails")
    assert base.tokenizer.decode([token.id for token in tokens if token.scored][:-1]) == " the app fails"
    predictor.save(tmp_path)
    again = load_predictor(tmp_path, lambda name: base)
    assert [answer.text for answer in again.predict(race)] == [answer.text for answer in answers]
    assert read_settings(tmp_path / "written_label.json", {"labels": list})["labels"] == list(LABELS)


@pytest.mark.parametrize("answer", ["written", "constrained"])
def test_a_bundle_of_written_labels_is_checked_by_its_probes(base, answer, tmp_path: Path) -> None:
    made_context = context(base)
    predictor = made(made_context, answer)
    options = {"task_name": "t", "kind": "classify", "columns": ("text",), "policy": "keep_start"}
    save_bundle(predictor, tmp_path / "b", probes=made_context.fold.race[:4], **options)
    bundle = load_bundle(tmp_path / "b", base=base)
    assert [each.text for each in bundle.predict([row.fields["text"] for row in made_context.fold.race])] == [
        each.text for each in predictor.predict(made_context.fold.race)
    ]
    bundle.predictor.prompt = dataclasses.replace(predictor.prompt, instruction="something else")
    from tunewise.predictors.bundle import check_probes

    with pytest.raises(BundleError, match="probe 0 was answered"):
        check_probes(bundle, tmp_path / "b")


@pytest.mark.parametrize(
    ("rung", "config"),
    [
        ("zero_shot", ZeroShotConfig(answer="written")),
        ("few_shot", FewShotConfig(answer="constrained", shots=2)),
        ("retrieval", RetrievalConfig(answer="written", neighbours=2)),
    ],
)
def test_candidates_that_write_race_those_that_score_by_the_metric(base, rung, config, tmp_path: Path) -> None:
    made_context, method = context(base, metric="accuracy"), get_method(rung)
    race = made_context.fold.race
    run = Run.create(tmp_path / "run")
    arena = Arena(
        run=run,
        task=made_context.task,
        stopper=Stopper(Clock(), 1e9),
        watcher=Quiet(),
        targets=[str(row.target) for row in race],
    )
    scored = dataclasses.replace(config, answer="scored")
    with run:
        trials = run_bracket(arena, method, made_context, [config], name="written", halve=True)
        both = run_bracket(arena, method, made_context, [scored, config], name="both", halve=True)
    for trial in (*trials, *both):
        assert isinstance(trial, Finished), trial
    assert trials[0].loss is None
    assert both[0].loss is not None
    assert both[1].score == trials[0].score
    saved = race_predictions(run.folder / "trials" / "written", LABELS)
    predictor = load_predictor(run.folder / "trials" / "written" / "predictor", lambda name: base)
    assert [each.text for each in saved] == [each.text for each in predictor.predict(race)]
    hits = np.mean([each.text == row.target for each, row in zip(saved, race, strict=True)])
    assert trials[0].score == hits


def test_labels_are_written_only_where_no_probabilities_are_asked_for(base) -> None:
    rng = np.random.default_rng(0)
    for metric, expected in (("accuracy", {"scored", "written", "constrained"}), ("log_loss", {"scored"})):
        made_context = context(base, metric=metric)
        assert could_write(made_context) == (metric == "accuracy")
        tried = ZeroShot().propose(made_context, FixedGrid(), rng, 9)
        assert {config.answer for config in tried} == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answer": "said"}, "`answer` is 'scored', 'written' or 'constrained', got 'said'"),
        ({"answer": "written", "calibration": "domain"}, "`calibration` is about scores"),
        ({"answer": "constrained", "length": "token"}, "`length` is about scores"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ZeroShotConfig(**changes)


def test_a_base_that_writes_nothing_writes_no_labels(tiny, base) -> None:
    predictor = made(context(base), "written")
    with pytest.raises(ModelError, match="writes nothing"):
        WrittenLabelPredictor(
            base=tiny, labels=LABELS, policy="keep_start", prompt=predictor.prompt, decoding=predictor.decoding
        )


def test_the_share_of_unparsable_answers_is_told_of_each_rung_that_writes() -> None:
    def measured(rung: str, *answers: Prediction) -> Measured:
        score = Score(metric="accuracy", value=0.5, low=0.0, high=1.0, n=2, method="wilson")
        statistics_EK = np.zeros((len(answers), 1))
        own = Rung(method=get_method(rung), base="base")
        return Measured(rung=own, predictions=answers, statistics=statistics_EK, score=score)

    written = measured("few_shot", Prediction(text="crash"), Prediction(text="(unparsable) x", abstained=True))
    scored = measured("zero_shot", Prediction(text="crash", scores={"crash": 1.0, "login": 0.0}))
    (note,) = unparsable_notes([written, scored], "classify")
    assert note.startswith("few_shot on base writes its labels: 1 of 2 answers on held_out are no label")
    assert unparsable_notes([written], "generate") == []
