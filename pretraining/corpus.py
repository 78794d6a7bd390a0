"""Make the corpus: read the sources, drop what is bad, double or measured on, ask a share as tasks, write shards.

    python -m pretraining.corpus --out pretraining/build/corpus

The same inputs give the same bytes. A source that was read stays in `OUT/sources` and is not read again; remove its
folder there to have it read anew.
"""

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretraining import quality
from pretraining.debian import Unpacked
from pretraining.decontaminate import Overlap, evaluation_texts
from pretraining.dedup import Seen
from pretraining.documents import Document, Pair, Passage, held_out, passages
from pretraining.lm_text import WIKITEXT, wikitext
from pretraining.sources import Places, Source, sources
from pretraining.tasks import Asked, asked, entry_pair, pairs_of
from tunewise import seeding

ROOT = Path(__file__).resolve().parents[1]
RECIPE = 1
"""Raised when sources have to be read anew."""
SHARD_BYTES = 16_000_000
MOST_PAIRS = 24_000
"""Of one task; which pairs stay is decided by a hash of them."""
MEGABYTES = {"prose": 20.0, "docs": 36.0, "code": 11.0, "task": 13.0}
"""To learn from, by kind; where there is more, the largest sources are cut to one size."""
PARTS = ("train", "held_out")


@dataclass
class Counts:
    """What happened to one source."""

    documents: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept_bytes: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        by_name = ("dropped", "kept", "kept_bytes")
        return {"documents": self.documents} | {name: dict(sorted(getattr(self, name).items())) for name in by_name}


def read_source(source: Source, places: Places, folder: Path) -> None:
    """The source's passages and pairs that are good enough, with what was dropped, as files in its folder."""
    documents: list[Document] = []
    found: list[Pair] = []
    for each in source.read(places):
        if isinstance(each, Pair):
            found.append(each)
        else:
            documents.append(each)
    counts = Counts(documents=len(documents))
    rules = quality.CODE_RULES if source.kind == "code" else quality.TEXT_RULES
    kept: list[tuple[Document, Passage]] = []
    for document in quality.without_boilerplate(documents):
        for passage in passages(document):
            if source.dictionary and len(passage.text) < 400:  # entries are short, and have few words of any kind
                fault = quality.fault(passage.text, {"damaged": quality.TEXT_RULES["damaged"]})
            else:
                fault = quality.fault(passage.text, rules)
            if fault:
                counts.dropped[fault] += 1
            else:
                kept.append((document, passage))
    kept = _within(kept, int(source.megabytes * 1e6), counts)
    stay = {document.id for document, _ in kept}
    by_id = {document.id: document for document, _ in kept}
    if source.kind != "code":
        for document in by_id.values():
            found += entry_pair(document) if source.dictionary else pairs_of(document)
    found = [pair for pair in found if pair.document in stay or not documents]
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "passages.jsonl", (asdict(passage) for _, passage in kept))
    _write_lines(folder / "pairs.jsonl", map(asdict, found))
    _write_json(folder / "done.json", {"recipe": RECIPE, **counts.plain()})


def _within(kept: list[tuple[Document, Passage]], most: int, counts: Counts) -> list[tuple[Document, Passage]]:
    """Whole documents, by the hash of their names, until there is as much text as is wanted."""
    sizes: Counter[str] = Counter()
    for document, passage in kept:
        sizes[document.id] += len(passage.text.encode())
    taken, total = set(), 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if total + sizes[name] <= most:
            taken.add(name)
            total += sizes[name]
    counts.dropped["more than wanted"] += sum(document.id not in taken for document, _ in kept)
    return [each for each in kept if each[0].id in taken]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of a shard."""

    text: str
    source: str
    license: str
    kind: str
    document: str
    answer_at: int | None = None


def join(folder: Path, every: Sequence[Source], overlap: Overlap, out: Path, seed: int) -> dict[str, Any]:
    """Shards of what is neither double nor measured on; the report says what was dropped and why."""
    reports = {source.name: Counts(**_counts(folder / source.name)) for source in every}
    touched: Counter[str] = Counter()
    texts: dict[str, list[Text]] = {part: [] for part in PARTS}
    pairs: dict[tuple[str, str], list[tuple[Source, Pair]]] = {}

    def clean(text: str, report: Counts, what: str) -> bool:
        name = overlap.found(text)
        if name:
            touched[name] += 1
            report.dropped[f"{what}: measured on"] += 1
        return name is None

    seen = Seen(seed)
    lines = [(source, Passage(**line)) for source in every for line in _lines(folder / source.name / "passages.jsonl")]
    # what is held out comes first, so that of two texts that are alike the one to be learnt gives way
    for source, passage in sorted(lines, key=lambda line: not held_out(line[1].document)):
        report = reports[source.name]
        double = seen.before(passage.text)
        if double:
            report.dropped[f"{double} duplicate"] += 1
        elif clean(passage.text, report, "passage"):
            text = Text(text=passage.text, source=source.name, license=source.license, kind=source.kind,
                        document=passage.document)  # fmt: skip
            texts["held_out" if held_out(passage.document) else "train"].append(text)
    questions: set[tuple[str, str]] = set()
    for source in every:
        for line in _lines(folder / source.name / "pairs.jsonl"):
            pair = Pair(**line)
            report = reports[source.name]
            key = (pair.task, json.dumps(pair.fields, sort_keys=True))
            if key in questions:
                report.dropped["pair: asked before"] += 1
            elif clean("\n".join([*pair.fields.values(), pair.answer]), report, "pair"):
                questions.add(key)
                part = "held_out" if held_out(pair.document) else "train"
                pairs.setdefault((part, pair.task), []).append((source, pair))
    for (part, task), found in sorted(pairs.items()):
        found.sort(key=lambda each: hashlib.sha256(repr((each[1].document, each[1].fields)).encode()).digest())
        for source, _ in found[MOST_PAIRS:]:
            reports[source.name].dropped["pair: more than wanted"] += 1
        owners = {pair.document: source for source, pair in found}
        for each in asked(task, [pair for _, pair in found[:MOST_PAIRS]], seeding.generator(seed, "tasks", part, task)):
            texts[part].append(_asked_text(each, task, owners[each.document]))
    return write_shards(texts, reports, touched, overlap.sizes(), out)


def _asked_text(each: Asked, task: str, source: Source) -> Text:
    return Text(text=each.text, source=f"tasks/{task}", license=source.license, kind="task", document=each.document,
                answer_at=each.answer_at)  # fmt: skip


def mixed(texts: Sequence[Text], megabytes: Mapping[str, float]) -> list[Text]:
    """As much of each kind as is wanted, in the order that was: of a source that is cut, documents by their hash."""
    sizes: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    for text in texts:
        size = len(text.text.encode())
        sizes.setdefault(text.source, Counter())[text.document] += size
        kinds.setdefault(text.kind, Counter())[text.source] += size
    stay: set[tuple[str, str]] = set()
    for kind, by_source in kinds.items():
        most = level(list(by_source.values()), megabytes[kind] * 1e6)
        for source in by_source:
            total = 0
            for document in sorted(sizes[source], key=lambda name: hashlib.sha256(name.encode()).digest()):
                total += sizes[source][document]
                if total > most:
                    break
                stay.add((source, document))
    return [text for text in texts if (text.source, text.document) in stay]


def level(sizes: Sequence[int], total: float) -> float:
    """What each may have at most, so that all have no more than `total` together."""
    left = total
    for number, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - number) > left:
            return left / (len(sizes) - number)
        left -= size
    return float("inf")


def write_shards(
    texts: dict[str, list[Text]], reports: dict[str, Counts], touched: Counter[str], measured: dict[str, int], out: Path
) -> dict[str, Any]:
    """Shards of both parts, cut to what is wanted; returns the report."""
    stay = mixed(texts["train"], MEGABYTES)
    for source, fewer in (Counter(t.source for t in texts["train"]) - Counter(t.source for t in stay)).items():
        if source in reports:
            reports[source].dropped["more than wanted"] += fewer
    texts = {**texts, "train": stay}
    files: dict[str, dict[str, Any]] = {}
    totals: dict[str, dict[str, Counter[str]]] = {part: {} for part in PARTS}
    for part in PARTS:
        for old in out.glob(f"{part}-*.jsonl"):
            old.unlink()
        for number, shard in enumerate(_shards(texts[part])):
            path = out / f"{part}-{number:03}.jsonl"
            _write_lines(path, (_line(text) for text in shard))
            files[path.name] = {"texts": len(shard), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for text in texts[part]:
            count = totals[part].setdefault(text.source, Counter())
            size = len(text.text.encode())
            count.update({"texts": 1, "bytes": size})
            if text.source in reports:
                reports[text.source].kept[part] += 1
                reports[text.source].kept_bytes[part] += size
    return {
        "recipe": RECIPE,
        "files": files,
        "totals": {part: {name: dict(count) for name, count in sorted(by.items())} for part, by in totals.items()},
        "bytes": {part: sum(count["bytes"] for count in by.values()) for part, by in totals.items()},
        "sources": {name: report.plain() for name, report in sorted(reports.items())},
        "dropped": dict(sorted(sum((report.dropped for report in reports.values()), Counter()).items())),
        "measured_on": {"stretches": measured, "dropped": dict(sorted(touched.items()))},
    }


def _shards(texts: Sequence[Text]) -> Iterator[list[Text]]:
    shard: list[Text] = []
    size = 0
    for text in texts:
        shard.append(text)
        size += len(text.text.encode())
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _line(text: Text) -> dict[str, Any]:
    return {name: value for name, value in asdict(text).items() if value is not None}


def _counts(folder: Path) -> dict[str, Any]:
    plain = json.loads((folder / "done.json").read_text("utf-8"))
    return {"documents": plain["documents"], "dropped": Counter(plain["dropped"])}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")
    fresh.replace(path)


def read_texts(corpus: Path, part: str) -> Iterator[Text]:
    """The texts of a part, in the order of its shards."""
    shards = sorted(corpus.glob(f"{part}-*.jsonl"))
    if not shards:
        raise SystemExit(
            f"pretraining: no '{part}' shards in {corpus}; run `python -m pretraining.corpus --out {corpus}`."
        )
    for path in shards:
        for line in _lines(path):
            yield Text(**line)


def make(
    out: Path, places: Places, every: Sequence[Source], *, examples: Path, library: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """The whole recipe; returns the report, which is also written as `manifest.json`."""
    out.mkdir(parents=True, exist_ok=True)
    for source in every:
        done = out / "sources" / source.name / "done.json"
        if not done.is_file() or json.loads(done.read_text("utf-8"))["recipe"] != RECIPE:
            read_source(source, places, done.parent)
            print(f"{source.name}: {(done.parent / 'passages.jsonl').stat().st_size / 1e6:.2f} MB", flush=True)
    overlap = Overlap()
    for name, text in evaluation_texts(places.data, examples, library):
        overlap.add(name, text)
    report = join(out / "sources", every, overlap, out, seed)
    if (places.data / "lm_text" / WIKITEXT).is_file():
        _write_lines(out / "wikitext2.jsonl", ({"text": document.text} for document in wikitext(places.data)))
    report["packages"] = {deb.name: hashlib.sha256(deb.read_bytes()).hexdigest() for deb in places.packages.debs()}
    report["licenses"] = {source.name: source.license for source in every}
    _write_json(out / "manifest.json", report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "pretraining/build/corpus")
    parser.add_argument("--cache", type=Path, default=ROOT / "pretraining/build/cache", help="Debian packages")
    parser.add_argument("--data", type=Path, default=os.environ.get("TUNEWISE_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.data.is_dir():
        raise SystemExit(
            f"pretraining: no data sets at {given.data}; give --data, or set TUNEWISE_DATA to their folder."
        )
    report = make(
        given.out, Places(given.data, Unpacked(given.cache)), sources(), examples=ROOT / "examples", seed=given.seed
    )
    print(json.dumps({name: report[name] for name in ("bytes", "dropped", "measured_on")}, indent=1))


if __name__ == "__main__":
    main()
