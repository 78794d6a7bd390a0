"""The bases' one tokenizer: byte-level BPE, learnt from the corpus, in a folder for each family.

    python -m pretraining.tokenizer --corpus pretraining/build/corpus --out pretraining/build/tokenizer

Vocabulary and merges are the same in all three; what a text begins and ends with is the family's.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pretraining.corpus import ROOT, read_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Family = Literal["causal", "masked", "seq2seq"]
VOCABULARY = 8192
SENTINELS = 48
"""For span corruption: 15 % of 512 tokens in spans of 3 are 26."""
ROLES = ("system", "user", "assistant")
PAD, BOS, EOS, MASK = "<pad>", "<s>", "</s>", "<mask>"
SPECIAL = (
    PAD, BOS, EOS, MASK, *(f"<|{role}|>" for role in ROLES), *(f"<extra_id_{i}>" for i in range(SENTINELS)),
)  # fmt: skip
# Words with the blank before them; each digit alone, so that numbers are written as they are read; line ends apart from
# the indentation that follows them, of which the last blank goes with the word.
SPLIT = r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATES: dict[Family, tuple[str, str]] = {
    "causal": (f"{BOS} $A", f"{BOS} $A $B"),
    "masked": (f"{BOS} $A {EOS}", f"{BOS} $A {EOS} $B {EOS}"),
    "seq2seq": (f"$A {EOS}", f"$A {EOS} $B {EOS}"),
}
# A turn ends as a text does, so that there is one token to stop at.
CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LENGTH = 512


def learn(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE of the texts; every text can be written in it, byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def of_family(learnt: Tokenizer, family: Family) -> "PreTrainedTokenizerFast":
    """The tokenizer as `transformers` has it, with what this family's texts begin and end with."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(learnt.to_str())
    single, pair = TEMPLATES[family]
    ends = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    build: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = build(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        cls_token=BOS,
        sep_token=EOS,
        mask_token=MASK,
        extra_special_tokens=list(SPECIAL[4:]),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = CHAT
    return fast


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """How much text a token holds, on the whole."""
    texts = list(texts)
    tokens = sum(len(each.ids) for each in tokenizer.encode_batch(texts, add_special_tokens=False))
    size = sum(len(text.encode()) for text in texts)
    return {"bytes": size, "tokens": tokens, "bytes_per_token": size / max(tokens, 1)}


def held_out_texts(corpus: Path) -> Iterator[tuple[str, list[str]]]:
    """The parts that are never learnt from: WikiText-2, and the corpus's own documents by kind."""
    wikitext = corpus / "wikitext2.jsonl"
    if wikitext.is_file():
        yield "wikitext2", [json.loads(line)["text"] for line in wikitext.read_text("utf-8").splitlines()]
    by_kind: dict[str, list[str]] = {}
    for text in read_texts(corpus, "held_out"):
        by_kind.setdefault(text.kind, []).append(text.text)
    yield from sorted(by_kind.items())


def make(corpus: Path, out: Path, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Learn, save a folder for each family, and say how much text a token holds."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the same merges on every machine, and one core
    learnt = learn((text.text for text in read_texts(corpus, "train")), vocabulary)
    for family in TEMPLATES:
        of_family(learnt, family).save_pretrained(out / family)
    report = {
        "vocabulary": learnt.get_vocab_size(),
        "held_out": {name: bytes_per_token(learnt, texts) for name, texts in held_out_texts(corpus)},
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report


def load(folder: Path) -> Tokenizer:
    """Vocabulary and merges from the folder that `make` wrote."""
    path = folder / "causal" / "tokenizer.json"
    if not path.is_file():
        raise SystemExit(f"pretraining: no tokenizer at {path}; run `python -m pretraining.tokenizer`.")
    return Tokenizer.from_file(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "pretraining/build/corpus")
    parser.add_argument("--out", type=Path, default=ROOT / "pretraining/build/tokenizer")
    given = parser.parse_args()
    print(json.dumps(make(given.corpus, given.out), indent=1))


if __name__ == "__main__":
    main()
