"""What every trained rung keeps where texts are to be written, on every architecture it works on."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunewise.config import Budget, DataConfig, Task
from tunewise.errors import EndedEarly
from tunewise.evaluation.evaluate import wanted
from tunewise.methods import LADDER, get_method
from tunewise.methods.base import Bracket, Context, Fold, Method, skip_reason
from tunewise.methods.folded import open_bracket
from tunewise.methods.stacked import StackedMethod
from tunewise.methods.trained_config import TrainedConfig
from tunewise.methods.writing import as_read
from tunewise.models.embed import FeatureStore
from tunewise.models.generate import Writer, Written
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import ARCHITECTURES as CAUSAL
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.predictors.bundle import load_predictor
from tunewise.runs import Run
from tunewise.search import trial
from tunewise.search.arena import Arena
from tunewise.search.budget import Clock
from tunewise.search.stopper import Stopper
from tunewise.search.trial import run_bracket
from tunewise.search.watch import Quiet
from tunewise.types import Example, Finished, Prediction, Trial

LEARNT = [name for name in LADDER if get_method(name).trained and "generate" in get_method(name).kinds]
OTHERS = [
    (rung, architecture)
    for architecture in CAUSAL[1:]
    for rung in ("lora", "prefix_tuning" if architecture not in ("gpt2", "phi") else "prompt_tuning")
]
SEQ2SEQ = [(rung, "t5") for rung in [*LEARNT, "peft:LOHA"]]
SEQ2SEQ += [(rung, "bart") for rung in ("prompt_tuning", "prefix_tuning", "lora", "full")]
CELLS = [(rung, "llama") for rung in [*LEARNT, "peft:LOHA"]] + OTHERS + [("full", "gpt2"), ("full", "gpt_neox")]
CELLS += SEQ2SEQ
HOMES = [(rung, "llama") for rung in LEARNT] + [("prefix_tuning", "t5")]  # which has a decoder to sit in
WORDS = ("cat", "dog", "sun", "tree", "fish")
Contexts = Callable[[str], Context]


def rows(n: int, seed: int) -> tuple[Example, ...]:
    """Two words; they are to be said the other way round."""
    rng = np.random.default_rng(seed)
    drawn = [[str(word) for word in rng.choice(WORDS, size=2)] for _ in range(n)]
    return tuple(
        Example(id=f"{seed}-{i}", fields={"text": f"{a} {b}"}, target=f"{b} {a}") for i, (a, b) in enumerate(drawn)
    )


@pytest.fixture
def writing_for(bases: Callable[[str], Path]) -> Contexts:
    def context(architecture: str) -> Context:
        path = str(bases(architecture))
        base = load_base(path, device="cpu", dtype="float32")
        task = Task(
            name="contract",
            kind="generate",
            metric="exact_match",
            data=DataConfig(train="in-memory.csv"),
            models=(path,),
            dtype="float32",
            budget=Budget(work=10**9),
            truncation="keep_start",
        )
        train, race = rows(24, 1), rows(7, 2)
        return as_read(
            Context(
                task=task,
                labels=(),
                base=base,
                folds=(Fold(train=train, race=race),),
                features=FeatureStore(base, "keep_start", (*train, *race), None),
                work=10**9,
                seed=3,
                seconds_per_work=1e-4,
            )
        )

    return context


def short(method: Method, context: Context, **changes: Any) -> Any:
    """The default config, trained for three passes; answers of a few tokens."""
    config = method.default(context)
    assert isinstance(config, TrainedConfig)
    return dataclasses.replace(config, **{"epochs": 3.0, "batch_size": 6, **changes})


def finished(method: Method, context: Context, configs: list[Any]) -> Bracket:
    bracket = method.open(context, configs)
    bracket.advance(bracket.horizon)
    return bracket


def said(predictions: list[Prediction]) -> list[tuple[str, float]]:
    assert all(p.target_log_probability is not None for p in predictions)
    return [(p.text, round(p.target_log_probability or 0.0, 3)) for p in predictions]


@pytest.mark.parametrize(("rung", "architecture"), CELLS)
def test_a_rung_ends_in_a_predictor_that_writes_the_same_from_disk(
    rung: str, architecture: str, writing_for: Contexts, tmp_path: Path
) -> None:
    method, context = get_method(rung), writing_for(architecture)
    assert skip_reason(method, context) is None
    bracket = finished(method, context, [short(method, context)])
    losses_E, curve = bracket.losses()[0], bracket.curve(0)
    predictor = bracket.predictor(0)
    bracket.close()
    assert min(curve.dev_losses) < curve.dev_losses[0] or len(curve.dev_losses) == 1, "it learns nothing"
    race = context.fold.race
    answers = predictor.predict(race)
    # members are scored as their predictors answer: by token, the end among them
    np.testing.assert_allclose([answer.target_loss for answer in answers], losses_E, rtol=1e-4, atol=1e-4)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, lambda name: context.base)
    assert said(loaded.predict(race)) == said(answers)
    alone = [loaded.predict([row])[0] for row in race]
    np.testing.assert_allclose(
        [a.target_loss for a in alone], [a.target_loss for a in answers], atol=1e-4, err_msg="it depends on neighbours"
    )
    assert [a.text for a in alone] == [a.text for a in answers]


@pytest.mark.parametrize(("rung", "architecture"), HOMES)
def test_members_end_as_each_would_alone_however_they_are_advanced(
    rung: str, architecture: str, writing_for: Contexts
) -> None:
    method, context = get_method(rung), writing_for(architecture)
    rates = (1e-3, 4e-3) if rung != "full" else (1e-4, 1e-3)
    configs = [short(method, context, learning_rate=rate, label_smoothing=0.1 * i) for i, rate in enumerate(rates)]
    whole = finished(method, context, configs)
    # how members are grouped is measured when a bracket is opened, and changes the last bits
    context = dataclasses.replace(context, layout=whole.layout)
    first = method.open(context, configs)
    first.advance(2, [1])  # one goes ahead
    first.advance(5)
    tensors, meta = first.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    first.advance(first.horizon)
    np.testing.assert_array_equal(whole.losses(), first.losses())
    second = method.open(context, configs)
    second.restore(tensors, meta)
    second.advance(second.horizon)
    np.testing.assert_array_equal(whole.losses(), second.losses())
    alone = finished(method, dataclasses.replace(context, layout=None), [configs[1]])
    kept = method.open(context, configs)
    kept.advance(4)
    kept.keep([1])
    kept.advance(kept.horizon)
    np.testing.assert_allclose(kept.losses(), alone.losses(), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(kept.losses()[0], whole.losses()[1], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("rung", "architecture"), HOMES)
def test_the_base_is_left_as_it_was_found_and_the_work_is_what_was_stated(
    rung: str, architecture: str, writing_for: Contexts
) -> None:
    method, context = get_method(rung), writing_for(architecture)
    before = {name: own.clone() for name, own in context.base.whole.named_parameters()}  # type: ignore[attr-defined]
    config = short(method, context)
    bracket = method.open(context, [config])
    work = bracket.advance(bracket.horizon)
    bracket.predictions()
    bracket.close()
    now = dict(context.base.whole.named_parameters())  # type: ignore[attr-defined]
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], now[name]) and not now[name].requires_grad for name in now)
    stated = method.cost(context, config).work
    assert context.closing_tokens == context.answering_tokens > 0
    assert work + context.closing_tokens == pytest.approx(stated, rel=0.05)


STACKED = [rung for rung in LEARNT if issubclass(type(get_method(rung)), StackedMethod)]


@pytest.mark.parametrize(("rung", "architecture"), [*((rung, "llama") for rung in STACKED), ("prefix_tuning", "t5")])
def test_members_say_the_same_in_one_pass_and_one_after_another(
    rung: str, architecture: str, writing_for: Contexts
) -> None:
    method, context = get_method(rung), writing_for(architecture)
    bracket = finished(method, context, [short(method, context, learning_rate=rate) for rate in (1e-3, 4e-3, 2e-2)])
    found = []
    for faster in (False, True):
        tensors, meta = bracket.state()
        bracket.restore(tensors, {**meta, "benches": [{"faster": [[3, faster]]}]})
        found.append(bracket.predictions())
        assert len(bracket.predictions((1, 4))) == 3
        assert "written" not in " ".join(bracket.notes), "there was nothing to find out"
    for alone, together in zip(*found, strict=True):
        assert said(together) == said(alone)
    assert said(found[0][1]) == said(bracket.predictor(1).predict(context.race))


def test_how_members_write_is_found_out_once_and_kept_by_a_resumed_run(writing_for: Contexts) -> None:
    method, context = get_method("lora"), writing_for("llama")
    configs = [short(method, context, learning_rate=rate) for rate in (1e-3, 4e-3)]
    first = finished(method, context, configs)
    first.predictions()
    (note,) = [note for note in first.notes if "texts are written" in note]
    assert note.startswith("lora: texts are written ")
    tensors, meta = first.state()
    second = method.open(dataclasses.replace(context, layout=first.layout), configs)
    second.restore(tensors, json.loads(json.dumps(meta)))
    second.predictions()
    assert not [note for note in second.notes if "texts are written" in note]


def test_a_look_writes_nothing(writing_for: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    method, context = get_method("lora"), writing_for("llama")
    bracket = finished(method, context, [short(method, context)])
    monkeypatch.setattr(AdaptedWriter, "write", lambda *_: pytest.fail("it wrote"))
    loss_PE = bracket.losses((1, 4))
    np.testing.assert_array_equal(loss_PE, bracket.losses()[:, [1, 4]])


def test_folds_write_for_the_rows_they_were_not_fitted_on(writing_for: Contexts) -> None:
    method, context = get_method("lora"), writing_for("llama")
    every = (*context.fold.train[:12], *context.fold.race[:6])
    folds = tuple(Fold(train=every[:start] + every[start + 6 :], race=every[start : start + 6]) for start in (0, 6, 12))
    folded = dataclasses.replace(context, folds=folds)
    bracket = open_bracket(method, folded, [short(method, folded)])
    bracket.advance(bracket.horizon)
    (answers,) = bracket.predictions()
    np.testing.assert_allclose([a.target_loss for a in answers], bracket.losses()[0], rtol=1e-4, atol=1e-4)
    assert bracket.losses((1, 7, 13)).shape == (1, 3)
    whole = bracket.predictor(0)
    assert [p.text for p in whole.predict(every)]


def arena_in(folder: Path, context: Context) -> Arena:
    return Arena(Run.create(folder), context.task, Stopper(Clock(), float("inf")), Quiet(), wanted(context.race))


def test_a_race_that_is_stopped_while_it_writes_ends_as_an_undisturbed_one(
    writing_for: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, context = get_method("bitfit"), writing_for("llama")
    monkeypatch.setattr(trial, "WRITTEN_AT_ONCE", 4)
    configs = [short(method, context, learning_rate=rate) for rate in (1e-4, 1e-3, 5e-3, 2e-2)]
    context = dataclasses.replace(context, layout=[[0, 1, 2, 3]])
    arenas = [arena_in(tmp_path / name, context) for name in ("whole", "stopped")]
    for arena in arenas:
        arena.run.ledger.once("layout", "b", lambda: [[0, 1, 2, 3]])
    whole = run_bracket(arenas[0], method, context, configs, name="b", halve=True)
    assert any(isinstance(t, Finished) for t in whole)
    assert any("left the race" in getattr(t, "reason", "") for t in whole), "its looks write nothing"

    write, stopped = AdaptedWriter.write, arenas[1]

    def once(self: AdaptedWriter, examples: Sequence[Example], writer: Writer) -> list[Written]:
        stopped.stopper.interrupted = True
        return write(self, examples, writer)

    monkeypatch.setattr(AdaptedWriter, "write", once)
    with pytest.raises(EndedEarly):
        run_bracket(stopped, method, context, configs, name="b", halve=True)
    stopped.stopper.interrupted = False
    monkeypatch.setattr(AdaptedWriter, "write", write)
    again = run_bracket(stopped, method, context, configs, name="b", halve=True)
    plain = [[dataclasses.replace(t, seconds=0.0, **_memory(t)) for t in trials] for trials in (whole, again)]
    assert plain[0] == plain[1]
    for arena in arenas:
        arena.run.close()


def _memory(of: Trial) -> dict[str, int]:
    return {"peak_memory_bytes": 0} if isinstance(of, Finished) else {}


NOT_HERE = [name for name in LADDER if "generate" not in get_method(name).kinds]


@pytest.mark.parametrize("rung", [*NOT_HERE, "peft:PROMPT_TUNING", "peft:PREFIX_TUNING"])
def test_a_rung_that_makes_no_sense_where_texts_are_written_says_so(rung: str, writing_for: Contexts) -> None:
    reason = skip_reason(get_method(rung), writing_for("llama"))
    if rung in NOT_HERE:
        assert reason == f"{rung} answers classify tasks, not generate"
    else:
        assert reason == f"{rung}: its virtual tokens have no part in writing here. Use prompt_tuning or prefix_tuning."
