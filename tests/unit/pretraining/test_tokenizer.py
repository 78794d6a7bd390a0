import json
from pathlib import Path

import pytest

from pretraining.tokenizer import CHAT, SPECIAL, bytes_per_token, learn, of_family

TEXTS = [
    "def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    return add(a, a)\n",
    "The shell reads a line, and the line is read by the shell. It's what the shell's for.",
] * 3


@pytest.fixture(scope="module")
def learnt():
    return learn(TEXTS, vocabulary=len(SPECIAL) + 256 + 60)


@pytest.mark.parametrize("text", ["", "  x\n\t\n y ", "naïve 数字 \U0001f600", "a\r\nb", "\x00\x7f", "<b>  12345</b>"])
def test_every_text_can_be_written_byte_for_byte(learnt, text):
    assert learnt.decode(learnt.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_digits_stand_alone_and_indentation_is_apart_from_words(learnt):
    pieces = learnt.encode("x = 1024\n        return", add_special_tokens=False).tokens
    assert pieces[-6:-3] != ["1", "0", "24"]
    assert [piece for piece in pieces if piece.isdigit()] == ["1", "0", "2", "4"]
    assert pieces[-1] == "Ġreturn"


def test_the_same_texts_give_the_same_tokenizer(learnt):
    assert learn(TEXTS, vocabulary=len(SPECIAL) + 256 + 60).to_str() == learnt.to_str()


def test_bytes_per_token_is_a_ratio_of_totals(learnt):
    assert bytes_per_token(learnt, ["1", "234"]) == {"bytes": 4, "tokens": 4, "bytes_per_token": 1.0}


CONFIGS = {"causal": "llama", "masked": "modernbert", "seq2seq": "t5"}


@pytest.mark.parametrize(
    ("family", "ends"), [("causal", ("<s>", None)), ("masked", ("<s>", "</s>")), ("seq2seq", (None, "</s>"))]
)
def test_a_base_of_each_family_loads_it_by_its_folder(learnt, tmp_path, family, ends):
    from transformers import AutoConfig, AutoTokenizer

    AutoConfig.for_model(CONFIGS[family]).save_pretrained(tmp_path)
    of_family(learnt, family).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    tokens = loaded.convert_ids_to_tokens(loaded("the shell")["input_ids"])
    middle = learnt.encode("the shell", add_special_tokens=False).tokens
    assert tokens == [end for end in ends[:1] if end] + middle + [end for end in ends[1:] if end]
    assert loaded.convert_ids_to_tokens(range(len(SPECIAL))) == list(SPECIAL)
    assert (loaded.mask_token, loaded.pad_token_id, loaded.eos_token) == ("<mask>", 0, "</s>")
    assert loaded("a<extra_id_3>", add_special_tokens=False)["input_ids"][-1] == SPECIAL.index("<extra_id_3>")
    assert json.loads((Path(tmp_path) / "tokenizer.json").read_text("utf-8"))["model"]["type"] == "BPE"


def test_a_chat_begins_once_and_an_answer_ends_where_texts_end(learnt):
    tokenizer = of_family(learnt, "causal")
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "the line?"}]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == "<s><|system|>Be short.</s><|user|>the line?</s><|assistant|>"
    told = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "read"}], tokenize=False)
    assert told == asked + "read</s>"
    assert CHAT.count("generation %}") == 2
