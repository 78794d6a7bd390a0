"""A real encoder-decoder learns to write Arabic names without vowels, which prompts and random weights do not."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewise.config import Budget, DataConfig, Task
from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold, skip_reason
from tunewise.methods.writing import as_read
from tunewise.models.answers import writer_of
from tunewise.models.embed import FeatureStore
from tunewise.models.generate import Decoding
from tunewise.models.load import load_base, quiet_transformers
from tunewise.models.seq2seq import Seq2Seq
from tunewise.types import Example

MODEL = Path(__file__).parents[4] / "shared/data/models/aren-transliteration"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the transliteration model is not here")
RACE = 60
NAMES = """
محمد احمد علي حسن حسين خالد عمر عثمان يوسف ابراهيم اسماعيل يعقوب داود سليمان موسى هارون عيسى زكريا
يحيى ادريس صالح نوح هود شعيب لوط طارق زياد وليد سعيد سعد سالم سليم كريم كمال جمال جلال بلال هلال
طلال نبيل جميل خليل عادل فيصل ماجد رائد فؤاد مراد جواد عماد رشيد راشد حامد محمود حمدان شعبان رمضان
رجب فهد اسد سامي رامي هاني فادي شادي مهدي هادي نادي غازي فوزي رمزي شوقي صبري بدري حلمي فهمي نجيب
حبيب لبيب منير سمير امير بشير نذير قدير زهير جعفر صابر شاكر ناصر ياسر جابر ماهر طاهر باهر عامر تامر
سامر شاهر مظفر فاطمة عائشة خديجة زينب مريم سارة هاجر آمنة حليمة رقية سمية نجوى سلوى ليلى سلمى هدى
منى لبنى ندى رنا دينا رانيا داليا ناديا سونيا صوفيا شيماء اسماء هيفاء نجلاء وفاء رجاء شهد وعد جوري
جميلة كريمة نبيلة سميرة منيرة بغداد دمشق بيروت عمان القاهرة الرياض جدة مكة المدينة صنعاء عدن مسقط
دبي الدوحة المنامة الكويت البصرة الموصل اربيل كركوك حلب حمص حماة اللاذقية طرطوس دير درعا طرابلس صيدا
صور بعلبك زحلة القدس غزة نابلس الخليل اريحا حيفا يافا عكا الخرطوم ام درمان بورتسودان تونس صفاقس سوسة
الجزائر وهران قسنطينة عنابة الرباط مراكش فاس طنجة اكادير نواكشوط بنغازي سبها مصراتة واشنطن لندن
باريس برلين روما مدريد موسكو طوكيو بكين دلهي جاكرتا شيكاغو بوسطن هيوستن سياتل دنفر ميامي ديترويت
شنغهاي شيراز جورج جون جاك جوزيف جيمس شارل شارون واطسون ويلسون وليام والتر دوغلاس روبرت رولان سيمون
شومان شوبان كوشنر بوش بوتين
"""


@pytest.fixture(scope="module")
def base(one_thread: None) -> Seq2Seq:
    loaded = load_base(str(MODEL), device="cpu", dtype="float32")
    assert isinstance(loaded, Seq2Seq)
    return loaded


@pytest.fixture(scope="module")
def examples(base: Seq2Seq) -> tuple[Example, ...]:
    """Each name, and the consonants of what the model makes of it."""
    names = NAMES.split()
    answers = writer_of(base).write(base.prompt_ids(names), Decoding(max_new_tokens=30))
    bare = ["".join(letter for letter in answer.text if letter not in "aeiou") or answer.text for answer in answers]
    order = np.random.default_rng(0).permutation(len(names))
    return tuple(Example(id=str(i), fields={"text": names[i]}, target=bare[i]) for i in order)


def context_of(base: Seq2Seq, examples: tuple[Example, ...]) -> Context:
    task = Task(
        kind="generate",
        metric="exact_match",
        data=DataConfig(train="names.csv"),
        models=(base.info.path,),
        dtype="float32",
        budget=Budget(work=10**9),
        truncation="keep_start",
    )
    context = Context(
        task=task,
        labels=(),
        base=base,
        folds=(Fold(train=examples[:-RACE], race=examples[-RACE:]),),
        features=FeatureStore(base, "keep_start", examples, None),
        work=10**9,
        seed=3,
        seconds_per_work=1e-4,
    )
    return as_read(context)


def right(context: Context, rung: str, **changes: float) -> tuple[float, float]:
    """Share of the race rows that are written as they should be, and their loss by token."""
    method = get_method(rung)
    bracket = method.open(context, [dataclasses.replace(method.default(context), **changes)])
    bracket.advance(bracket.horizon)
    answers = bracket.predictions()[0]
    share = np.mean([answer.text == row.target for answer, row in zip(answers, context.fold.race, strict=True)])
    return float(share), float(bracket.losses().mean())


@pytest.mark.slow
def test_what_is_learnt_beats_what_is_asked_and_what_begins_at_random(
    base: Seq2Seq, examples: tuple[Example, ...], tmp_path: Path
) -> None:
    context = context_of(base, examples)
    asked, asked_loss = right(context, "zero_shot")
    learnt, learnt_loss = right(context, "lora", epochs=10.0, batch_size=16, learning_rate=3e-3)
    assert asked < 0.1
    assert learnt > 0.5
    assert learnt_loss < 0.2 * asked_loss
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL / file, tmp_path / file)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        type(base.whole)(base.whole.config).save_pretrained(tmp_path)
    random = load_base(str(tmp_path), device="cpu", dtype="float32")
    assert isinstance(random, Seq2Seq)
    guessed, guessed_loss = right(context_of(random, examples), "full", epochs=5.0, batch_size=16, learning_rate=5e-4)
    assert guessed < 0.1
    assert learnt_loss < 0.2 * guessed_loss


def test_a_base_that_knows_no_other_words_reads_the_row_alone_and_is_shown_none(
    base: Seq2Seq, examples: tuple[Example, ...]
) -> None:
    context = context_of(base, examples)
    method = get_method("zero_shot")
    bracket = method.open(context, [method.default(context)])
    bracket.advance(bracket.horizon)
    for row, answer in zip(context.fold.race, bracket.predictions()[0], strict=True):
        ids = torch.tensor([base.tokenizer(row.fields["text"])["input_ids"]])
        written = base.whole.generate(ids, max_new_tokens=30, do_sample=False)[0]
        assert base.tokenizer.decode(written, skip_special_tokens=True).startswith(answer.text)
    why = skip_reason(get_method("few_shot"), context)
    assert "has no token for the empty line that stands between rows that are shown" in str(why)
