"""A task: what is to be learnt from which data, measured how, for how much; read strictly."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml

from tunewise.errors import ConfigError, did_you_mean
from tunewise.types import Kind

Truncation = Literal["refuse", "keep_start", "keep_end", "chunk_and_pool"]

OWN_METRIC = "python:"
"""What the name of a metric starts with that is a function in a file of the user's: `python:FILE.py:FUNCTION`."""
MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 50
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a run may take; minutes become work once, at start. All limits that are given hold together."""

    minutes: float | None = None
    work: int | None = None
    """Forward-equivalent unpadded tokens, backward counted twice; the same work gives the same verdict."""
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and self.work is None and self.trials is None:
            raise ConfigError("budget: give `minutes`, `work` or `trials`; all three are empty.")
        for name in ("minutes", "work", "trials"):
            value = getattr(self, name)
            if value is not None and not (0 < value < float("inf")):
                raise ConfigError(f"budget: `{name}` must be a finite number above 0, got {value}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows are. A missing `dev` or `held_out` is split off `train`, seeded and locked by hash."""

    train: Any
    """A path, a `datasets` directory or `hub:<id>`; from Python also a pandas DataFrame or a `datasets.Dataset`."""
    dev: Any = None
    held_out: Any = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    """Of CSV files; None: found and printed."""
    held_out_share: float = 0.2
    dev_share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("held_out_share", "dev_share"):
            value = getattr(self, name)
            if not 0.0 < value < 0.9:
                raise ConfigError(f"data: `{name}` must lie between 0 and 0.9, got {value}.")


@dataclass(frozen=True, kw_only=True)
class PromptTask:
    """How a row is put to a base that is asked."""

    template: str | None = None
    """Jinja over the fields of a row; None: its text as it is, or its fields in lines with their names."""
    lead: str | None = None
    """Stands between a row and its answer; None: "Answer:" on a line of its own, and nothing after a `file`."""
    file: str | None = None
    """A PromptSource file, in the place of `template`."""
    name: str | None = None
    """Of the file's template; None: the only one."""
    format: Literal["auto", "plain", "chat"] = "auto"
    """`chat`: as turns, by the base's chat template; `auto`: so where the base has one."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """For each label, which of the template's answers is meant; found where the template knows labels by their text,
    and where labels are numbers or answers' names."""

    def __post_init__(self) -> None:
        if self.file is not None and self.template is not None:
            raise ConfigError("prompt: `file` and `template` are two ways to say the same. Keep one.")
        for name in ("name", "answers"):
            if getattr(self, name) and self.file is None:
                raise ConfigError(f"prompt: `{name}` is about a PromptSource file. Give it as `file`, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a text is written; what is None is found from the targets of train."""

    max_new_tokens: int | None = None
    """None: as many as nearly all targets of train have."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have this share of the probability."""
    beams: int = 1
    """Answers that are kept while one is written, of which the likeliest by token is given (beam search)."""
    stop: tuple[str, ...] | None = None
    """An answer ends before the first of these; None: at a line's end where no target has one."""
    choices: tuple[str, ...] = ()
    """Where there are any, an answer is one of these."""
    regex: str | None = None
    """An answer matches the whole of this expression."""
    json_schema: Any = None
    """An answer is JSON that fits this schema; keys and values, or the path of a JSON file."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"decoding: `max_new_tokens` must be 1 or more, got {self.max_new_tokens}.")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"decoding: `temperature` must be 0 or more, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"decoding: `top_p` must lie above 0 and be at most 1, got {self.top_p}.")
        if self.top_p < 1 and self.temperature == 0:
            raise ConfigError(
                "decoding: `top_p` is about tokens that are drawn, and at `temperature: 0` none is. Set a temperature."
            )
        if any(not text for text in self.stop or ()):
            raise ConfigError("decoding: `stop` holds an empty text, which would end every answer. Leave it out.")
        if self.beams < 1:
            raise ConfigError(f"decoding: `beams` must be 1 or more, got {self.beams}.")
        if self.beams > 1 and self.temperature > 0:
            raise ConfigError(
                "decoding: `beams` keeps the likeliest answers, and at a `temperature` above 0 tokens are drawn. Keep "
                "one of them."
            )
        self._check_constraint()

    def _check_constraint(self) -> None:
        if self.regex == "":
            raise ConfigError("decoding: an empty `regex` would make every answer empty. Leave it out.")
        given = [name for name in ("choices", "regex", "json_schema") if getattr(self, name) not in (None, ())]
        if len(given) > 1:
            raise ConfigError(f"decoding: `{given[0]}` and `{given[1]}` both say what may be written. Keep one.")
        if given and self.stop is not None:
            raise ConfigError(
                f"decoding: with `{given[0]}` an answer ends where it is complete, so that `stop` changes nothing. "
                "Leave it out."
            )
        if any(not text.strip() or text != text.strip() for text in self.choices):
            raise ConfigError("decoding: `choices` are texts without blanks around them, and none is empty.")
        if len(set(self.choices)) < len(self.choices):
            raise ConfigError("decoding: a text stands twice among `choices`. Leave one out.")
        if self.json_schema is not None and not isinstance(self.json_schema, Mapping):
            raise ConfigError(
                f"decoding: `json_schema` is keys and values, or the path of a JSON file; got {self.json_schema!r}."
            )


DEFAULT_BASE: Mapping[Kind, str] = {"classify": "bundled:minilm", "generate": "bundled:causal"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything a run needs to know; what is None is detected from the data and printed."""

    name: str = "task"
    kind: Kind = "classify"
    """Whether one of some labels is chosen, or a text is written; where the data show that the other is meant, that is
    an error which says so."""
    data: DataConfig
    input: tuple[str, ...] | None = None
    target: str | tuple[str, ...] | None = None
    """A column of labels, or of lists of labels; or several columns of 0 and 1, one for each label. Of texts to be
    written: a column of them, or several, of which the first holds the answer and the others further right ones."""
    label_separator: str | None = None
    """What stands between several labels in one value; "": each value is one label; None: found and printed."""
    metric: str = "macro_f1"
    slices: tuple[str, ...] = ()
    cluster: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """A description in words for each label, used by zero_shot; labels without one describe themselves."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What a base that writes is to say for each label; labels without any are said by their name."""
    ordinal: bool | None = None
    """Whether the labels have an order; None: they do where they are three to eleven whole numbers."""
    order: tuple[str, ...] | None = None
    """The labels from the lowest to the highest; None: by their number."""
    shots: int | None = None
    """Work with only this many rows per class (of texts to be written: in all), dev taken out of them; None: all."""
    draw: int = 0
    """Which rows `shots` draws: another number, another draw from the same rows."""
    instruction: str | None = None
    """What is to be done with a text, in words; soft prompts may start at it."""
    prompt: PromptTask = field(default_factory=PromptTask)
    """How a row is put to a base that is asked; a text alone is its `template`."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """Of texts to be written: how long, drawn or not, where they stop."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By rung: settings that all its candidates have, such as `{lora: {targets: attention}}`."""
    truncation: Truncation = "refuse"
    models: tuple[str, ...] = ()
    """The bases; none: `bundled:minilm`, or of texts to be written `bundled:causal`."""
    methods: tuple[str, ...] | None = None
    """The rungs to climb; None: every rung of the ladder."""
    budget: Budget = field(default_factory=lambda: Budget(minutes=10.0))
    margin: float = 0.01
    """How much worse than the best a cheaper rung may be and still be chosen, in units of the metric."""
    level: float = 0.95
    warm_start: str | None = None
    """A folder of earlier runs: what won there in similar tasks is tried first."""
    seed: int = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    disk_gb: float = 10.0
    """Cap on what checkpoints and trial folders of one run may take on disk."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise ConfigError(
                f"task: `name` becomes a folder, so it must be 1 to 64 letters, digits, dots, dashes or underscores, "
                f"starting with a letter or digit; got {self.name!r}."
            )
        if not self.models:
            object.__setattr__(self, "models", (DEFAULT_BASE[self.kind],))
        for name, low, high in (("margin", 0.0, 1.0), ("level", 0.5, 1.0), ("disk_gb", 0.0, float("inf"))):
            if not low < getattr(self, name) < high and not (name == "margin" and self.margin == 0.0):
                raise ConfigError(f"task: `{name}` must lie between {low:g} and {high:g}, got {getattr(self, name)}.")
        if self.shots is not None and self.shots < 2:
            raise ConfigError(f"task: `shots` must be 2 or more, to fit and to choose on; got {self.shots}.")
        self._check_kind()
        if self.order is not None and (self.ordinal is False or len(set(self.order)) < len(self.order)):
            twice = next((label for label in self.order if self.order.count(label) > 1), None)
            found = "`ordinal` is false" if twice is None else f"{twice!r} stands there twice"
            raise ConfigError(f"task: `order` names each label once, from the lowest to the highest, but {found}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"task: `seed` must lie between 0 and 4294967295, got {self.seed}.")

    def _check_kind(self) -> None:
        given = {
            "labels": bool(self.labels),
            "words": bool(self.words),
            "label_separator": self.label_separator is not None,
            "ordinal": self.ordinal is not None,
            "order": self.order is not None,
        }
        if self.words and self.prompt.file is not None:
            raise ConfigError(
                "task: `words` and a PromptSource file both say what stands for a label. Leave `words` out, or give "
                "the prompt as `template`."
            )
        if self.kind == "classify" and self.decoding != DecodingConfig():
            raise ConfigError(
                "task: `decoding` is about texts to be written, and with `kind: classify` none is. Leave it out, "
                "or set `kind: generate`."
            )
        for name in (name for name, is_given in given.items() if is_given and self.kind == "generate"):
            raise ConfigError(
                f"task: `{name}` is about labels, and with `kind: generate` there are none. Leave it out, or set "
                "`kind: classify` to choose among labels."
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, folder: Path | None = None) -> Self:
        """A task from plain keys; relative data and model paths are taken from `folder`.

        Raises:
            ConfigError: a key is unknown (the closest known one is offered) or a value has the wrong type.
        """
        raw = dict(raw)
        data = raw.pop("data", {})
        if not isinstance(data, Mapping):
            data = {"train": data}
        data = dict(data)
        for shorthand in ("train", "dev", "held_out"):
            if shorthand in raw:
                if shorthand in data:
                    raise ConfigError(f"task: `{shorthand}` is given both at the top and under `data`; keep one.")
                data[shorthand] = raw.pop(shorthand)
        if data.get("train") is None:
            raise ConfigError("task: no training data. The smallest task is one line, `train: tickets.csv`.")
        if raw.get("models") in ([], (), ""):
            raise ConfigError(
                "task: `models` is empty; name at least one base, for example bundled:minilm, or leave it out."
            )
        if folder is not None:
            for part in ("train", "dev", "held_out"):
                data[part] = _anchor(data.get(part), folder)
            if isinstance(raw.get("prompt"), Mapping):
                raw["prompt"] = {**raw["prompt"], "file": _anchor(raw["prompt"].get("file"), folder)}
            if isinstance(raw.get("decoding"), Mapping):
                raw["decoding"] = {
                    **raw["decoding"],
                    "json_schema": _schema(raw["decoding"].get("json_schema"), folder),
                }
            raw["warm_start"] = _anchor(raw.get("warm_start"), folder)
            if str(raw.get("metric")).startswith(OWN_METRIC):
                raw["metric"] = OWN_METRIC + _anchor(raw["metric"].removeprefix(OWN_METRIC), folder)
            if isinstance(raw.get("models"), (list, tuple)):
                raw["models"] = [_anchor(name, folder, must_exist=True) for name in raw["models"]]
            elif isinstance(raw.get("models"), str):
                raw["models"] = [_anchor(raw["models"], folder, must_exist=True)]
        if isinstance(raw.get("prompt"), str):
            raw["prompt"] = {"template": raw["prompt"]}
        if isinstance(raw.get("order"), (list, tuple)):
            # in YAML `order: [1, 2, 3]` holds numbers, and labels are texts
            raw["order"] = [
                str(label) if isinstance(label, (int, float)) and not isinstance(label, bool) else label
                for label in raw["order"]
            ]
        if "name" not in raw and isinstance(data["train"], (str, Path)):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(data["train"])).stem).strip("-._") or "task"
            raw["name"] = stem[:64]
        return from_plain(cls, {**raw, "data": data}, where="task")

    @classmethod
    def from_file(cls, path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Self:
        """A task from a YAML file, or from a data file alone (`tickets.csv`); overrides use dotted keys.

        Raises:
            ConfigError: the file is missing, not strict YAML, or says something unknown.
        """
        path = Path(path)
        if path.suffix.lower() not in (".yaml", ".yml"):
            raw: dict[str, Any] = {"data": {"train": str(path.absolute())}}
            return cls.from_dict(_with_overrides(raw, overrides or {}), folder=Path.cwd())
        loaded = load_yaml(path)
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path}: a task file is a mapping of keys, found {type(loaded).__name__}.")
        if "name" not in loaded and path.stem != "task":
            loaded["name"] = path.stem
        return cls.from_dict(_with_overrides(loaded, overrides or {}), folder=path.absolute().parent)


def _schema(value: Any, folder: Path) -> Any:
    """A JSON schema that was given as the path of a file."""
    if not isinstance(value, str):
        return value
    path = folder / value
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"decoding: `json_schema` names {path}, which cannot be read as JSON ({error}).") from error


def _anchor(value: Any, folder: Path, *, must_exist: bool = False) -> Any:
    """A relative path made absolute; names with a scheme (`hub:`, `bundled:`) and objects stay as they are."""
    if not isinstance(value, (str, Path)) or re.match(r"[a-z]{2,}:", str(value)):
        return value
    anchored = folder / Path(value).expanduser()
    if must_exist and not anchored.exists():
        return str(value)
    return str(anchored)


def _with_overrides(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        place = raw
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                inner = place[parent] = {"train": inner} if parent == "data" else {}
            place = inner
        if dotted in ("budget.minutes", "budget.work", "budget.trials"):
            # one limit asked for by flag replaces the file's, so that a pinned work budget is only that
            place.clear() if not any(key in overrides for key in _siblings(dotted, place)) else None
        place[last] = value
    return raw


def _siblings(dotted: str, place: Mapping[str, Any]) -> list[str]:
    parent, last = dotted.rsplit(".", 1)
    return [f"{parent}.{key}" for key in place if key != last]


def from_plain(cls: type[C], raw: Mapping[str, Any], *, where: str) -> C:
    """A frozen dataclass from plain values, checked: unknown keys and wrong types are errors with an offer.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(f"{where}: there is no key '{key}'.{did_you_mean(str(key), fields)}")
    values = {key: _checked(hints[key], value, f"{where}.{key}") for key, value in raw.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: `{missing[0]}` is required.")
    return cls(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        several = next((arg for arg in args if typing.get_origin(arg) is tuple), None)
        if several is not None and isinstance(value, (list, tuple)):
            return _checked(several, value, where)
        return _checked(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: got {value!r}.{did_you_mean(str(value), map(str, args))}")
        return value
    if origin is tuple:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, Sequence):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        return tuple(_checked(args[0], item, where) for item in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected keys and values, got {value!r}.")
        return {_checked(args[0], k, where): _checked(args[1], v, where) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected keys and values, got {value!r}.")
        return from_plain(typing.cast(type, hint), value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {_plain_name(hint)}, got {value!r}.")
    return value


def _plain_name(hint: Any) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint))


class _StrictLoader(yaml.SafeLoader):
    """YAML without surprises: no tags, no aliases bombs, no duplicate keys, `no` and `012` are text as in YAML 1.2."""


_StrictLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False", "tfTF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:(?:0|[1-9]\d*)\.\d*|\.\d+)(?:[eE][-+]?\d+)?|(?:0|[1-9]\d*)[eE][-+]?\d+)", "-+.0123456789"),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise ConfigError(f"the key '{key}' stands twice, again on line {node.value[i][0].start_mark.line + 1}.")
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_yaml(path: Path) -> Any:
    """The content of a YAML file of at most 1 MB, read by strict rules.

    Raises:
        ConfigError: missing file, syntax, custom tags, duplicate keys, aliases, or nesting deeper than 50.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Name an existing task file or data file."
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: {len(raw):,} bytes; a task file has at most {MAX_FILE_BYTES:,}.")
    try:
        text = raw.decode("utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=_StrictLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"{path}: line {line} uses an alias (*name); write the value out.")
            depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH}.")
        return yaml.load(text, Loader=_StrictLoader)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not plain YAML ({' '.join(str(error).split())}).") from error
