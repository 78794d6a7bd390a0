"""Members of one kind that write in one pass write what each writes alone, whenever their answers end."""

import copy
from typing import Any

import pytest
import torch

from tunewise.adapters.bitfit import BitfitForm, BitfitStack, biased_layers
from tunewise.adapters.bottleneck import BottleneckForm, BottleneckStack, adapted_layers
from tunewise.adapters.ia3 import IA3Form, IA3Stack, rescaled_layers
from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
from tunewise.adapters.prefix import PrefixForm, PrefixStack, cache_dimensions, doubled
from tunewise.adapters.soft_prompt import SoftPromptForm, SoftPromptStack
from tunewise.adapters.stack import Member
from tunewise.models import generate
from tunewise.models.generate import Decoding, Written
from tunewise.models.load import load_base
from tunewise.models.tiny_causal import tiny_causal
from tunewise.models.tiny_seq2seq import ARCHITECTURES as SEQ2SEQ
from tunewise.models.tiny_seq2seq import tiny_seq2seq
from tunewise.models.writing_base import WritingBase
from tunewise.predictors.adapted_writer import AdaptedWriter
from tunewise.prompts.prompt import Prompt
from tunewise.types import Example

TEXTS = ("the card was stolen", "my payment is pending again", "reset", "a dull film", "no charm at all", "ok", "worst")
ROWS = tuple(Example(id=str(i), fields={"text": text}, target=text[::-1][:6]) for i, text in enumerate(TEXTS))
KINDS = ("lora", "dora", "ia3", "bitfit", "adapter", "parallel", "prompt_tuning", "prefix_tuning")
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", *SEQ2SEQ)
REFUSED = {("prefix_tuning", "gpt2")}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory, one_thread: None):
    made: dict[str, WritingBase] = {}

    def base(architecture: str) -> WritingBase:
        if architecture not in made:
            make: Any = tiny_seq2seq if architecture in SEQ2SEQ else tiny_causal
            folder = make(tmp_path_factory.mktemp("bases") / architecture, architecture=architecture)
            loaded = load_base(str(folder), device="cpu", dtype="float32")
            assert isinstance(loaded, WritingBase)
            loaded = copy.copy(loaded.for_texts())
            # every fourth token ends an answer, so that rows end at different times
            loaded.end_ids = tuple(range(2, loaded.vocabulary, 4))
            loaded.for_texts = lambda: loaded  # type: ignore[method-assign]
            made[architecture] = loaded
        return made[architecture]

    return base


def made(base: WritingBase, kind: str, member: int) -> tuple[Any, Any]:
    """A stack and a form of this kind; LoRA and bottlenecks differ in their scales too."""
    model, alone = base.model, [Member(seed=member)]
    if kind in ("lora", "dora"):
        stack: Any = LoraStack(model, alone, rank=3, targets=target_layers(model), dora=kind == "dora")
        return stack, LoraForm(rank=3, alpha=2.0 + member, dora=kind == "dora")
    if kind == "ia3":
        return IA3Stack(model, alone, targets=rescaled_layers(model)), IA3Form()
    if kind == "bitfit":
        return BitfitStack(model, alone, targets=biased_layers(model)), BitfitForm()
    if kind in ("adapter", "parallel"):
        placement: Any = "houlsby" if kind == "adapter" else "parallel"
        targets = adapted_layers(model, placement)
        stack = BottleneckStack(model, alone, size=4, targets=targets, placement=placement)
        return stack, BottleneckForm(size=4, placement=placement, activation="relu", scale=1.0 + member)
    layers, heads, _ = cache_dimensions(model)
    if kind == "prompt_tuning":
        return SoftPromptStack(model, alone, length=5), SoftPromptForm()
    if base.info.family == "causal":
        return PrefixStack(model, alone, length=5), PrefixForm(layers=layers, heads=heads)
    return PrefixStack(model, alone, length=5), PrefixForm(layers=2 * layers, heads=heads, in_decoder=True)


def writers(base: WritingBase, kind: str, count: int = 3, **decoding: Any) -> list[AdaptedWriter]:
    found = []
    for member in range(count):
        stack, form = made(base, kind, member)
        rng = torch.Generator().manual_seed(member)
        wide = 0.3 if kind not in ("prompt_tuning", "prefix_tuning") else 1.5
        tensors = {n: t[0] + wide * torch.randn(t[0].shape, generator=rng) for n, t in stack.start().items()}
        if isinstance(form, PrefixForm) and form.in_decoder:
            tensors["prefix"] = doubled(tensors["prefix"], form.layers // 2)
        how = Decoding(**{"max_new_tokens": 12, **decoding})
        found.append(
            AdaptedWriter(base=base, policy="keep_start", prompt=Prompt(), decoding=how, tensors=tensors, adapter=form)
        )
    return found


def both(members: list[AdaptedWriter]) -> tuple[list[list[Written]], list[list[Written]]]:
    """What members write alone, and in one pass."""
    alone = [member.write(ROWS, member.writer) for member in members]
    whole = members[0].write(ROWS, AdaptedWriter.at_once(members))
    return alone, [whole[start : start + len(ROWS)] for start in range(0, len(whole), len(ROWS))]


def check(members: list[AdaptedWriter]) -> list[list[Written]]:
    alone, together = both(members)
    assert len({tuple(answer.ids for answer in own) for own in alone}) == len(members), "all must write otherwise"
    for one, other in zip(alone, together, strict=True):
        assert [answer.ids for answer in other] == [answer.ids for answer in one]
        assert [answer.ended for answer in other] == [answer.ended for answer in one]
        assert [answer.text for answer in other] == [answer.text for answer in one]
        for first, second in zip(one, other, strict=True):
            assert second.log_probability == pytest.approx(first.log_probability, abs=1e-3)
    return alone


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_members_write_in_one_pass_what_each_writes_alone(kind: str, architecture: str, base_of) -> None:
    if (kind, architecture) not in REFUSED:
        check(writers(base_of(architecture), kind))


@pytest.mark.parametrize("architecture", ["llama", "t5", "bart"])
@pytest.mark.parametrize("kind", ["lora", "prefix_tuning"])
@pytest.mark.parametrize(
    "decoding",
    [{"beams": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}, {"stop": ("e", "a")}, {"choices": ("ok", "never")}],
    ids=lambda decoding: next(iter(decoding)),
)
def test_however_they_decode(kind: str, decoding: dict[str, Any], architecture: str, base_of) -> None:
    members = writers(base_of(architecture), kind, **decoding)
    alone, together = both(members)
    for one, other in zip(alone, together, strict=True):
        assert [answer.ids for answer in other] == [answer.ids for answer in one]
        assert [answer.text for answer in other] == [answer.text for answer in one]


def test_rows_and_members_leave_when_they_are_done(base_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes get smaller, members that are through have no part in them, and what is left is as it was."""
    members = writers(base_of("llama"), "lora", max_new_tokens=40)
    widths: list[int] = []
    logits = generate._GoingOn.logits

    def seen(self: Any) -> torch.Tensor:
        found = logits(self)
        widths.append(len(found))
        return found

    monkeypatch.setattr(generate._GoingOn, "logits", seen)
    alone = [member.write(ROWS, member.writer) for member in members]
    widths.clear()
    whole = members[0].write(ROWS, AdaptedWriter.at_once(members))
    assert [answer.ids for answer in whole] == [answer.ids for own in alone for answer in own]
    lengths = [max(len(answer.ids) for answer in own) for own in alone]
    assert len(set(lengths)) > 1, "members must be through at different times"
    assert widths[0] == len(members) * len(ROWS)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < len(members), "members that are through still take part"


def test_batches_hold_the_same_rows_of_every_member(base_of, monkeypatch: pytest.MonkeyPatch) -> None:
    members = writers(base_of("llama"), "lora")
    expected, _ = both(members)
    monkeypatch.setattr(generate, "BATCH_TOKENS_CPU", 200)
    whole = members[0].write(ROWS, AdaptedWriter.at_once(members))
    assert [answer.ids for answer in whole] == [answer.ids for own in expected for answer in own]
