"""What a base has learnt, on text that was kept out of training, beside the 5-gram and another base.

    python -m pretraining.measure pretraining/build/causal [--against ../shared/data/models/stories260K]

A causal base is measured in bits per byte, which do not depend on its tokenizer; a masked one by the hidden tokens that
it guesses, a seq2seq one by spans of three tokens, both at the places where the 5-gram guessed. `measured.json` beside
the base has the figures.

Axes: N tokens of a text or a part, R rows of a batch, T positions of a row, V vocabulary.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pretraining.corpus import ROOT
from pretraining.ngram import Ints, hidden_places
from pretraining.pack import IDS, read
from pretraining.tokenizer import EOS, LENGTH, MASK, held_out_texts
from tunewise import seeding

ROWS = 16
SPAN = 3


def windows(tokens: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first that counts) of windows in which every token but the first counts once.

    Each has a quarter in common with the one before it, so that none is foreseen from next to nothing.
    """
    counted, start = 1, 0
    while counted < tokens:
        end = min(start + length, tokens)
        yield start, end, counted
        counted, start = end, end - length // 4


@torch.inference_mode()
def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Bits that the model takes to say the texts, each from its beginning, for every byte of UTF-8 in them."""
    length = min(LENGTH, model.config.max_position_embeddings)
    rows: list[tuple[Ints, int]] = []
    for text in texts:
        own_N = np.array([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids])
        rows += [(own_N[start:end], counts - start) for start, end, counts in windows(len(own_N), length)]
    bits = 0.0
    rows.sort(key=lambda row: len(row[0]))
    for at in range(0, len(rows), ROWS):
        batch = rows[at : at + ROWS]
        width = max(len(own_T) for own_T, _ in batch)
        read_RT = torch.zeros(len(batch), width, dtype=torch.long)
        counts_RT = torch.zeros(len(batch), width, dtype=torch.bool)
        for r, (own_T, first) in enumerate(batch):  # what fills a row stands behind all that counts
            read_RT[r, : len(own_T)] = torch.from_numpy(own_T)
            counts_RT[r, first : len(own_T)] = True
        logits_RTV = model(input_ids=read_RT).logits[:, :-1]
        counts_RT = counts_RT[:, 1:]
        loss = F.cross_entropy(logits_RTV[counts_RT].float(), read_RT[:, 1:][counts_RT], reduction="sum")
        bits += float(loss) / float(np.log(2))
    return bits / sum(len(text.encode()) for text in texts)


def around(tokens_N: Ints, place: int, length: int = LENGTH) -> slice:
    """A row's worth of tokens with the place in the middle, as far as there are any."""
    start = max(0, min(place - length // 2, len(tokens_N) - length))
    return slice(start, start + length)


@torch.inference_mode()
def masked_tokens(model: Any, tokens_N: Ints, places: Ints, hidden_N: np.ndarray) -> float:
    """Share of the places whose token is the likeliest, all of `hidden_N` being masked."""
    shown_N = np.where(hidden_N, IDS[MASK], tokens_N)
    right = 0
    for place in map(int, places):
        row = around(tokens_N, place)
        logits_TV = model(input_ids=torch.from_numpy(shown_N[row])[None]).logits[0]
        right += int(logits_TV[place - row.start].argmax()) == tokens_N[place]
    return right / len(places)


@torch.inference_mode()
def spans(model: Any, tokens_N: Ints, places: Ints) -> float:
    """Share of the places from which three tokens, hidden behind one sentinel, are written right."""
    sentinel = IDS["<extra_id_0>"]
    right = 0
    for place in map(int, places):
        row = around(tokens_N, place, LENGTH // 2)
        own_N, at = tokens_N[row], place - row.start
        shown = [*own_N[:at].tolist(), sentinel, *own_N[at + SPAN :].tolist(), IDS[EOS]]
        asked = torch.tensor([shown])
        written = model.generate(asked, max_new_tokens=SPAN + 1, do_sample=False)[0, 1:].tolist()
        right += written == [sentinel, *own_N[at : at + SPAN].tolist()]
    return right / len(places)


def measure(
    base: Path, tokens: Path, corpus: Path, *, against: Path | None, parts: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Figures of these held-out parts, or of all, the 5-gram's beside them."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    grams = json.loads((tokens / "ngram.json").read_text("utf-8"))["parts"]
    if unknown := sorted(set(parts) - set(grams)):
        raise SystemExit(f"pretraining: there is no part {', '.join(unknown)}; there are {', '.join(grams)}.")
    asked = parts or list(grams)
    config = AutoConfig.from_pretrained(base)
    report: dict[str, Any] = {"parts": {}, "against": against.name if against else None}
    if config.architectures[0].endswith("ForCausalLM"):
        sides = {"base": base, **({"against": against} if against else {})}
        loaded = {
            side: (
                AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),  # in eval mode
                AutoTokenizer.from_pretrained(path),
            )
            for side, path in sides.items()
        }
        for name, texts in ((name, texts) for name, texts in held_out_texts(corpus) if name in asked):
            own = {side: bits_per_byte(*pair, texts) for side, pair in loaded.items()}
            report["parts"][name] = {"bits_per_byte": {**own, "5-gram": grams[name]["bits_per_byte"]}}
            print(name, report["parts"][name], flush=True)
        return report
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
    model = kind.from_pretrained(base, dtype=torch.float32).eval()
    for name, gram in ((name, grams[name]) for name in asked):
        tokens_N = np.asarray(read(tokens, name).tokens_N, dtype=np.int64)
        places, hidden_N = hidden_places(tokens_N, gram["guesses"], seeding.generator(seed, "guesses", name))
        if config.is_encoder_decoder:
            own_share = spans(model, tokens_N, places)
            kinds = {"base": own_share, "unigram": gram["spans_of_3_unigram"], "5-gram": gram["spans_of_3_5gram"]}
            report["parts"][name] = {"spans_of_3": kinds}
        else:
            own_share = masked_tokens(model, tokens_N, places, hidden_N)
            kinds = {"base": own_share, "unigram": gram["masked_tokens_unigram"], "5-gram": gram["masked_tokens_5gram"]}
            report["parts"][name] = {"masked_tokens": kinds}
        print(name, report["parts"][name], flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--parts", nargs="+", default=[], help="of what was held out, such as docs; default: all")
    parser.add_argument("--against", type=Path, help="another causal base")
    parser.add_argument("--tokens", type=Path, default=ROOT / "pretraining/build/tokens")
    parser.add_argument("--corpus", type=Path, default=ROOT / "pretraining/build/corpus")
    given = parser.parse_args()
    report = measure(given.base, given.tokens, given.corpus, against=given.against, parts=given.parts)
    (given.base / "measured.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
