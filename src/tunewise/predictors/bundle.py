"""A predictor as a folder to hand over: nothing in it changes unnoticed, and it answers as it was measured."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.config import Truncation
from tunewise.data.conversations import question_of
from tunewise.errors import BundleError, DataError, ModelError
from tunewise.models.encoder import BaseInfo, Encoder
from tunewise.models.load import describe_base, load_base
from tunewise.predictors import KINDS
from tunewise.predictors.base import Bases, Predictor
from tunewise.predictors.manifest import MANIFEST, BaseRecord, Manifest, Probe, read_manifest, to_text
from tunewise.predictors.several import Thresholds
from tunewise.predictors.written import WrittenPredictor
from tunewise.runs import atomic_folder
from tunewise.types import Example, Kind, Message, Prediction, to_plain

PREDICTOR, CARD = "predictor", "README.md"
PROBES = 16
LOG_PROBABILITY = "log_probability"
"""What stands among a probe's scores where its answer is a text: its natural log-probability."""
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 0.05}
"""How far a score may lie from the stored one, by number format of the base."""

Input = str | tuple[str, ...] | Mapping[str, str] | Example


@dataclass(frozen=True)
class Bundle:
    """A predictor with what it says about itself."""

    manifest: Manifest
    predictor: Predictor

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """One prediction per input, in order: a text, a pair of texts, a mapping by column, or an Example.

        Raises:
            DataError: an input has not the columns that the bundle reads.
        """
        if isinstance(inputs, str):
            raise DataError("bundle: expected a list of inputs, got one text. Put it in a list.")
        return self.predictor.predict([self.example(i, item) for i, item in enumerate(inputs)])

    def cut_rows(self, inputs: Sequence[Input]) -> int:
        """How many of the inputs are too long for the base, so that its truncation policy applies to them."""
        base = self.predictor.base
        if base is None:
            return 0
        rows = [self.example(i, item).texts for i, item in enumerate(inputs)]
        return sum(count > base.info.max_tokens for count in base.token_counts(rows))

    def example(self, place: int, item: Input) -> Example:
        """The row that an input stands for.

        Raises:
            DataError: it has not the columns that the bundle reads.
        """
        columns = self.manifest.columns
        messages = _messages(place, item) if self.manifest.kind == "generate" else ()
        if self.manifest.extra.get("conversations") and not messages:
            raise DataError(
                f"bundle: input {place} is a plain text, and this bundle answers conversations. Give its turns under "
                '`messages`, as JSON: [{"role": "user", "content": "..."}].'
            )
        if messages and isinstance(item, Mapping):
            item = {**dict.fromkeys(columns, messages[-1].content), **item}
        if isinstance(item, Example):
            item = item.fields if set(columns) <= set(item.fields) else item.texts
        if isinstance(item, Mapping):
            missing = [column for column in columns if column not in item]
            if missing:
                raise DataError(
                    f"bundle: input {place} has no '{missing[0]}'; expected {', '.join(columns)}, "
                    f"found {', '.join(map(str, item)) or 'nothing'}."
                )
            texts: tuple[Any, ...] = tuple(item[column] for column in columns)
        else:
            texts = (item,) if isinstance(item, str) else tuple(item)
        if len(texts) != len(columns) or not all(isinstance(text, str) for text in texts):
            found = ", ".join(type(text).__name__ for text in texts)
            raise DataError(
                f"bundle: input {place} is ({found}); expected {len(columns)} text(s): {', '.join(columns)}."
            )
        return Example(id=str(place), fields=dict(zip(columns, texts, strict=True)), messages=messages)


def _messages(place: int, item: Input) -> tuple[Message, ...]:
    """The turns of an input that is a conversation, as an Example has them or as JSON under `messages`."""
    if isinstance(item, Example):
        return item.messages
    if not isinstance(item, Mapping) or "messages" not in item:
        return ()
    turns = question_of(item["messages"])
    if isinstance(turns, str):
        raise DataError(
            f"bundle: `messages` of input {place} cannot be answered: it is among conversations {turns}. Give turns "
            "with role and content that follow each other and end with the user's."
        )
    return turns


def save_bundle(
    predictor: Predictor,
    folder: Path,
    *,
    task_name: str,
    kind: Kind,
    columns: Sequence[str],
    policy: Truncation,
    probes: Sequence[Example],
    card: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the bundle so that the folder holds the old one or all of the new one; at most 16 probes are kept.

    Raises:
        RunError: the disk is full or the folder cannot be written.
        BundleError: a probe is answered with a number that is none.
    """
    probes = probes[:PROBES]
    answers = predictor.predict(probes)
    for answer in answers:
        if answer.scores is not None and not all(map(math.isfinite, answer.scores.values())):
            raise BundleError(f"{folder}: not saved, the predictor answers a probe with scores that are not numbers.")
    with atomic_folder(folder) as part:
        predictor.save(part / PREDICTOR)
        if card is not None:
            (part / CARD).write_text(card, encoding="utf-8")
        manifest = Manifest(
            task_name=task_name,
            kind=kind,
            predictor=predictor.kind,
            labels=tuple(predictor.labels),
            columns=tuple(columns),
            policy=policy,
            base=None if predictor.base is None else _record(predictor.base),
            probes=tuple(_probe(predictor, example, answer) for example, answer in zip(probes, answers, strict=True)),
            files={name: _sha256(part / name) for name in _files(part)},
            extra=to_plain(extra or {}),
        )
        (part / MANIFEST).write_text(to_text(manifest), encoding="utf-8")
    return manifest


def load_bundle(
    folder: Path | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    check: bool = True,
    base: Encoder | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Bundle:
    """The bundle, with every hash verified and (where `check`) its probes answered again.

    `dtype` "auto" is the format it was measured in. `base` is used instead of the one that the manifest names; it must
    have the same weights and tokenizer.

    Raises:
        BundleError: a file, the base or an answer is not what it was; the message says which.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    record = manifest.base
    if record is not None:
        base = base or _load_base(
            folder, record, device=device, dtype=dtype, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
        )
        _check_base(folder, record, base.info)
    predictor = load_predictor(folder / PREDICTOR, lambda name: _the_base(base, name))
    if predictor.kind != manifest.predictor or tuple(predictor.labels) != manifest.labels:
        raise BundleError(f"{folder}: the predictor is not the one that the manifest describes.")
    bundle = Bundle(manifest, predictor)
    if check:
        check_probes(bundle, folder)
    return bundle


def load_predictor(folder: Path, bases: Bases) -> Predictor:
    """The predictor in a folder, of whichever kind: each leaves a `<kind>.json`.

    Raises:
        BundleError: no kind that is known, or damaged.
    """
    found = [kind for kind in KINDS if (folder / f"{kind}.json").is_file()]
    if len(found) != 1:
        raise BundleError(
            f"{folder}: expected the settings of one predictor ({', '.join(f'{kind}.json' for kind in KINDS)}), "
            f"found {', '.join(found) or 'none'}."
        )
    return KINDS.get(found[0]).load(folder, bases)


def check_probes(bundle: Bundle, folder: Path) -> None:
    """Raises BundleError when a stored probe is answered differently than when it was saved."""
    manifest, base = bundle.manifest, bundle.predictor.base
    formats = {manifest.base.dtype} if manifest.base else {"float32"}
    if base is not None:
        formats.add(_dtype(base))
    tolerance = max(TOLERANCE.get(name, max(TOLERANCE.values())) for name in formats)
    answers = bundle.predict([probe.fields for probe in manifest.probes])
    for i, (probe, answer) in enumerate(zip(manifest.probes, answers, strict=True)):
        written = manifest.kind == "generate" or isinstance(bundle.predictor, WrittenPredictor)
        gap = 0.0 if written else _gap(probe.scores, answer.scores)
        if gap > tolerance:
            raise BundleError(
                f"{folder}: probe {i} was answered '{probe.label}' and is now '{answer.text}', with scores that differ "
                f"by {gap:.2g} (allowed: {tolerance:g}). This machine does not compute what was measured; "
                "try --device cpu, or fit again here."
            )
        if written:
            _check_text(bundle, probe, answer, folder, i, tolerance)
        elif answer.text != probe.label and not _is_tie(probe, bundle.predictor.thresholds, tolerance):
            raise BundleError(f"{folder}: probe {i} was answered '{probe.label}' and is now '{answer.text}'.")


def _check_text(bundle: Bundle, probe: Probe, answer: Prediction, folder: Path, place: int, tolerance: float) -> None:
    """The text that was written must be as probable as it was; if it is, rounding may have led to another one.

    Raises:
        BundleError: it is not, or another text is written and the predictor cannot say.
    """
    predictor, before = bundle.predictor, (probe.scores or {}).get(LOG_PROBABILITY)
    now = None
    if isinstance(predictor, WrittenPredictor) and before is not None:
        now = predictor.log_probability(bundle.example(place, probe.fields), probe.label)
    if now is None or before is None:
        if answer.text != probe.label:
            raise BundleError(
                f"{folder}: probe {place} was answered '{probe.label}', which is not what is written now."
            )
    elif not abs(now - before) <= tolerance * (1.0 + abs(before)):
        raise BundleError(
            f"{folder}: probe {place} was answered '{probe.label}' with a log-probability of {before:.4f}, which is "
            f"{now:.4f} now. This machine does not compute what was measured; try --device cpu, or fit again here."
        )


def _gap(before: Mapping[str, float] | None, now: Mapping[str, float] | None) -> float:
    if before is None or now is None:
        return 0.0 if before is now else math.inf
    if before.keys() != now.keys():
        return math.inf
    gaps = [abs(now[label] - score) for label, score in before.items()]
    return max(gaps, default=0.0) if all(map(math.isfinite, gaps)) else math.inf


def _is_tie(probe: Probe, thresholds: Thresholds, tolerance: float) -> bool:
    """Whether rounding within the tolerance may decide between the two best labels, or at a label's threshold."""
    if thresholds is not None:
        shares = (probe.scores or {}).values()
        return any(abs(share - low) <= tolerance for share, low in zip(shares, thresholds, strict=True))
    best = sorted((probe.scores or {}).values(), reverse=True)[:2]
    return len(best) == 2 and best[0] - best[1] <= 2 * tolerance


def _probe(predictor: Predictor, example: Example, answer: Prediction) -> Probe:
    scores = None if answer.scores is None else dict(answer.scores)
    if isinstance(predictor, WrittenPredictor) and not predictor.decoding.temperature:
        known = predictor.log_probability(example, answer.text)
        scores = None if known is None else {LOG_PROBABILITY: known}
    fields = dict(example.fields)
    if example.messages:
        fields["messages"] = json.dumps([{"role": turn.role, "content": turn.content} for turn in example.messages])
    return Probe(fields=fields, label=answer.text, scores=scores)


def _record(base: Encoder) -> BaseRecord:
    info = base.info
    local = info.revision is None and not info.name.startswith("bundled:")
    return BaseRecord(
        name=info.name,
        path=info.path if local else None,
        revision=info.revision,
        sha256=info.sha256,
        tokenizer_sha256=info.tokenizer_sha256,
        family=info.family,
        architecture=info.architecture,
        pooling=info.pooling,
        dtype=_dtype(base),
    )


def _load_base(folder: Path, record: BaseRecord, *, device: str, dtype: str, **safety: bool) -> Encoder:
    name = record.path if record.path is not None and Path(record.path).is_dir() else record.name
    revision = None if name.startswith("bundled:") or record.path is not None else record.revision
    try:
        # described first: a base with other weights need not even fit its own config
        info = describe_base(name, revision=revision, **safety)
        _check_base(folder, record, info)
        wanted = record.dtype if dtype == "auto" else dtype
        return load_base(name, device=device, dtype=wanted, revision=revision, **safety)
    except ModelError as error:
        raise BundleError(f"{folder}: the base it answers with cannot be used. {error}") from error


def _check_base(folder: Path, record: BaseRecord, info: BaseInfo) -> None:
    """Raises BundleError where the base has other weights, or reads texts by another tokenizer."""
    if info.sha256 != record.sha256:
        raise BundleError(
            f"{folder}: it was made on {record.name} with weights {record.sha256[:12]}…, but {info.path} has "
            f"{info.sha256[:12]}…. Use the same revision of the base."
        )
    if record.tokenizer_sha256 not in (None, info.tokenizer_sha256):
        raise BundleError(
            f"{folder}: it was made on {record.name} with another tokenizer than {info.path} has now, so that texts "
            "would be read otherwise. Use the same revision of the base, with the files of its tokenizer."
        )


def _the_base(base: Encoder | None, name: str) -> Encoder:
    if base is None:
        raise BundleError(f"the predictor answers with {name}, but the manifest names no base.")
    return base


def _dtype(base: Encoder) -> str:
    return str(base.dtype).removeprefix("torch.")


def _check_files(folder: Path, manifest: Manifest) -> None:
    found = _files(folder)
    for name in manifest.files:
        if name not in found:
            raise BundleError(f"{folder}: {name} is missing. Copy the whole folder again.")
    for name in found:
        if name != MANIFEST and name not in manifest.files:
            raise BundleError(f"{folder}: {name} does not belong to the bundle. Remove it, or copy the bundle again.")
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise BundleError(f"{folder}: {name} was changed or damaged (sha256 differs). Copy the bundle again.")


def _files(folder: Path) -> list[str]:
    """Paths of all files below a folder; links count, so that none can stand in for a file."""
    paths = sorted(folder.rglob("*"))
    links = [path for path in paths if path.is_symlink()]
    if links:
        raise BundleError(f"{folder}: {links[0].relative_to(folder)} is a link; a bundle holds plain files only.")
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
