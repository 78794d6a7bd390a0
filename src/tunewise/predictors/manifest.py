"""What stands in a bundle's manifest.json, read and written to the byte."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tunewise.config import Truncation
from tunewise.errors import BundleError, ConfigError
from tunewise.types import Kind, to_plain

VERSION = 2
READ = (1, VERSION)
"""Formats that can be read: the first said nothing of tokenizers."""
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """The base a bundle answers with; its weights are not in the bundle."""

    name: str
    path: str | None
    """Of a local base, where it lay; None for bundled ones and those of the hub."""
    revision: str | None
    sha256: str
    family: str
    architecture: str
    pooling: str
    dtype: str
    """The number format the answers were measured in."""
    tokenizer_sha256: str | None = None
    """None in bundles of the first format."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An input with the answer it had when the bundle was saved."""

    fields: dict[str, str]
    label: str
    scores: dict[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself."""

    version: int = VERSION
    task_name: str
    kind: Kind
    predictor: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    policy: Truncation
    base: BaseRecord | None
    probes: tuple[Probe, ...]
    files: dict[str, str]
    """sha256 of every other file, by path inside the bundle."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of everything above, and through `files` of every byte of the bundle."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True, allow_nan=False).encode()).hexdigest()


def to_text(manifest: Manifest) -> str:
    """The content of manifest.json; to the byte the same for the same manifest."""
    plain = {"digest": manifest.digest, **_plain(manifest)}
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, unchanged since it was written.

    Raises:
        BundleError: there is none, it was edited, it is of another version, or it names a file outside the bundle.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder}: no bundle here, {MANIFEST} cannot be read ({error.strerror}).") from error
    try:
        plain = json.loads(raw.decode("utf-8"))
        version = plain["version"]
        if version not in READ:
            raise BundleError(
                f"{path}: format version {version!r}; this version of tunewise reads {' and '.join(map(str, READ))}. "
                "Install the version that wrote it, or fit again."
            )
        manifest = _from_plain(plain)
        intact = to_text(manifest).encode("utf-8") == raw
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BundleError(f"{path}: not a manifest ({why}). The bundle is damaged.") from error
    if not intact:
        raise BundleError(f"{path}: it was changed after it was written. Use an unchanged copy of the bundle.")
    for name in manifest.files:
        check_inside(name, path)
    return manifest


def check_inside(name: str, manifest: Path) -> None:
    """Raises BundleError unless the name is a plain relative path below the bundle."""
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and not any(character in name for character in "\\:\x00")
    if not parts or not plain or name.startswith("/") or ".." in parts or name == MANIFEST:
        raise BundleError(f"{manifest}: names the file {name!r}, which does not lie inside the bundle.")


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(manifest)
    if manifest.version == 1 and plain["base"] is not None:
        del plain["base"]["tokenizer_sha256"]
    return plain


def _from_plain(plain: Mapping[str, Any]) -> Manifest:
    known = {f.name for f in dataclasses.fields(Manifest)}
    if set(plain) != known | {"digest"}:
        raise ValueError(f"unexpected keys: {sorted(set(plain) ^ (known | {'digest'}))}")
    values = {key: plain[key] for key in known}
    if not all(isinstance(key, str) and isinstance(digest, str) for key, digest in values["files"].items()):
        raise TypeError("`files` is not a mapping of paths to digests")
    for key in ("labels", "columns"):
        values[key] = tuple(map(str, values[key]))
    values["base"] = None if values["base"] is None else BaseRecord(**values["base"])
    values["probes"] = tuple(Probe(**probe) for probe in values["probes"])
    return Manifest(**values)
