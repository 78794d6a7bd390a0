"""What a run leaves on disk: a folder under a lock, files that are old or new but never torn, and a ledger of facts."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError

from tunewise.errors import RunError

SCHEMA = 4
"""Of what a ledger records, and of what a resumed run takes to be the same as before, such as seeds."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a RunError that says so."""
    try:
        yield
    except SafetensorError as error:  # its writer wraps what the system said
        if "os error" not in str(error):
            raise
        raise RunError(f"{path}: cannot be written ({error}). Free some space, then continue with --resume.") from error
    except OSError as error:
        sentence = {
            errno.ENOSPC: "the disk is full; free some space, then continue with --resume",
            errno.EDQUOT: "the disk quota is used up; free some space, then continue with --resume",
            errno.EFBIG: "the file would be larger than this system allows",
            errno.EACCES: "the folder cannot be written; choose another with --out",
            errno.EPERM: "the folder cannot be written; choose another with --out",
            errno.ENOENT: "the folder cannot be made, or is gone; choose another with --out",
            errno.EROFS: "the folder is on a read-only disk; choose another with --out",
        }.get(error.errno or 0)
        if sentence is None:
            raise
        raise RunError(f"{path}: {sentence}.") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            with part.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN and infinity are refused, since no reader agrees on them."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling to fill, which replaces `path` when the block ends without an exception."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            for file in sorted(part.rglob("*")):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            if path.exists():
                shutil.rmtree(path)
            part.replace(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a run that works there may just have removed it
            total += file.stat().st_size if file.is_file() else 0
    return total


class Ledger:
    """Facts of a run, each written once: a resumed run finds the fact instead of doing the work again.

    One SQLite file, one writer, every write durable before it counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS facts (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, "
                "value TEXT NOT NULL, at REAL NOT NULL, UNIQUE (kind, key))"
            )
            schema = self.once("schema", "", lambda: SCHEMA)
        except sqlite3.Error as error:
            raise RunError(f"{path}: the ledger cannot be opened ({error}). The run cannot be continued.") from error
        if schema != SCHEMA:
            raise RunError(
                f"{path}: written by another version (schema {schema}, this one reads {SCHEMA}), and would not go on "
                "as it began. Continue it with that version, or begin a new run, with --out."
            )

    def recall(self, kind: str, key: str = "") -> Any | None:
        """The value of a fact, or None when it was not recorded."""
        row = self._base.execute("SELECT value FROM facts WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def record(self, kind: str, key: str, value: Any) -> Any:
        """Write a fact that was not there; comes back as it will be recalled.

        Raises:
            RunError: it is there already, or the disk is full.
        """
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        try:
            with self._writing():
                self._base.execute(
                    "INSERT INTO facts (kind, key, value, at) VALUES (?, ?, ?, ?)", (kind, key, text, time.time())
                )
        except sqlite3.IntegrityError as error:
            raise RunError(f"{self.path}: the fact {kind} {key} is written twice.") from error
        return json.loads(text)

    def once(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """The recorded fact; made and recorded if it is not there yet."""
        found = self.recall(kind, key)
        return self.record(kind, key, make()) if found is None else found

    def update(self, kind: str, key: str, value: Any) -> None:
        """Write or overwrite one of the few values that change (seconds spent, where a checkpoint lies)."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        with self._writing():
            self._base.execute(
                "INSERT INTO facts (kind, key, value, at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = excluded.at",
                (kind, key, text, time.time()),
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RunError(
                f"{self.path}: cannot be written ({error}). Free some space, then continue with --resume."
            ) from error

    def all(self, kind: str) -> list[tuple[str, Any]]:
        """Key and value of every fact of a kind, in the order they were written."""
        rows = self._base.execute("SELECT key, value FROM facts WHERE kind = ? ORDER BY number", (kind,))
        return [(key, json.loads(value)) for key, value in rows]

    def close(self) -> None:
        self._base.close()


@dataclass
class Run:
    """A run folder that this process holds the lock of."""

    folder: Path
    ledger: Ledger
    _lock: int

    @classmethod
    def create(cls, folder: Path) -> Self:
        """A new run folder; an existing one with a run in it is never written over.

        Raises:
            RunError: the folder holds something, or cannot be made.
        """
        with disk_errors(folder):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise RunError(
                    f"{folder}: a file stands where the run folder should be; choose another with --out."
                ) from error
            if any(folder.iterdir()):
                raise RunError(
                    f"{folder}: holds files already. Continue that run with --resume {folder}, or choose another --out."
                )
            return cls._hold(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """An existing run, to continue it.

        Raises:
            RunError: there is no run in the folder, or another process holds it.
        """
        if not (folder / "ledger.sqlite").is_file():
            raise RunError(f"{folder}: no run here (there is no ledger.sqlite). `tunewise runs` lists the runs.")
        with disk_errors(folder):
            return cls._hold(folder)

    @classmethod
    def _hold(cls, folder: Path) -> Self:
        path = folder / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip()
            os.close(lock)
            raise RunError(
                f"{folder}: another process works in it ({holder or 'unknown'}). Wait for it, or stop it."
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        for left_over in folder.glob(".*.part"):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        return cls(folder, Ledger(folder / "ledger.sqlite"), lock)

    def close(self) -> None:
        """Give the lock back."""
        self.ledger.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def next_folder(name: str, root: Path = Path("runs")) -> Path:
    """`runs/<name>-<n>` with the smallest n that is above all taken ones."""
    taken = [0]
    if root.is_dir():
        for folder in root.glob(f"{name}-*"):
            number = folder.name[len(name) + 1 :]
            if number.isdigit():
                taken.append(int(number))
    return root / f"{name}-{max(taken) + 1}"


def state_folder() -> Path:
    """Where what must outlive single runs is kept (`$XDG_STATE_HOME/tunewise`)."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(home) / "tunewise"


def count_opening(data_hash: str, run_id: str) -> int | None:
    """Record that a run opened this held_out; returns how many runs of this user have, or None if that is unknown.

    The same run counts once, however often it is resumed.
    """
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(state_folder() / "openings.sqlite", isolation_level=None)) as base:
            base.execute("CREATE TABLE IF NOT EXISTS openings (data TEXT, run TEXT, at REAL, UNIQUE (data, run))")
            base.execute("INSERT OR IGNORE INTO openings VALUES (?, ?, ?)", (data_hash, run_id, time.time()))
            row = base.execute("SELECT count(*) FROM openings WHERE data = ?", (data_hash,)).fetchone()
            return int(row[0])
    except (OSError, sqlite3.Error):
        return None
