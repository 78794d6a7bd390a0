"""Read a data file whole, or say at once why it cannot be read."""

import codecs
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tunewise.errors import DataError

MAX_BYTES = 4 * 2**30
BYTE_ORDER_MARKS = (  # the longer mark of UTF-32 begins with the one of UTF-16, so it is asked first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NOT_TEXT = (
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
    (b"PAR1", "a Parquet file; name it .parquet"),
)


def check_readable(source: str | Path, *, role: str) -> os.stat_result:
    """The file's or folder's state; nothing is read.

    Raises:
        DataError: it is missing, a device or pipe, larger than 4 GB, or may not be read.
    """
    try:
        found = os.stat(source)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"data.{role}: {str(source)!r} cannot be read ({reason}). Name an existing data file."
        ) from error
    if stat.S_ISDIR(found.st_mode):
        mode = os.R_OK | os.X_OK
    elif stat.S_ISREG(found.st_mode):
        mode = os.R_OK
    else:
        raise DataError(f"data.{role}: {source} is a pipe, socket or device; write the rows into a file first.")
    if not os.access(source, mode):
        raise DataError(f"data.{role}: {source} may not be read by this user (permission denied).")
    if stat.S_ISREG(found.st_mode) and found.st_size > MAX_BYTES:
        raise DataError(f"data.{role}: {source} has {found.st_size:,} bytes; a data file has at most {MAX_BYTES:,}.")
    return found


@contextlib.contextmanager
def unchanged(path: Path, *, role: str) -> Iterator[None]:
    """A stretch of reading during which the file must not change.

    Raises:
        DataError: its size or time of change was another afterwards.
    """
    before = check_readable(path, role=role)
    yield
    after = check_readable(path, role=role)
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise DataError(f"{path.name}: the file changed while it was read. Start again when it is complete.")


def read_text(path: Path, *, encoding: str, role: str) -> tuple[str, str]:
    """The file's text without its byte-order mark, and the encoding it was read with.

    Raises:
        DataError: it cannot be read, is not text, or is not in that encoding (with the offset of the first bad byte).
    """
    with unchanged(path, role=role):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"data.{role}: {path} cannot be read ({error.strerror}).") from error
    for magic, sentence in NOT_TEXT:
        if raw.startswith(magic):
            raise DataError(f"{path.name}: this is not a text file but {sentence}.")
    used = next((name for mark, name in BYTE_ORDER_MARKS if raw.startswith(mark)), encoding)
    text = _decode(raw, used, path.name)
    if not text.strip():
        raise DataError(f"{path.name}: no rows, the file is empty.")
    if "\x00" in text:
        _refuse_nul(text, path.name)
    return text, {"utf-8-sig": "utf-8 with byte-order mark"}.get(used, used)


def _decode(raw: bytes, encoding: str, name: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: not {encoding}: byte 0x{raw[error.start]:02x} at offset {error.start:,} (about line {line:,}) "
            "cannot be read. If the file is in another encoding, set `data.encoding`, for example cp1252 or utf-16."
        ) from None
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"data.encoding: cannot read with '{encoding}' ({error}). Common ones: utf-8, cp1252."
        ) from None


def _refuse_nul(text: str, name: str) -> None:
    at = text.index("\x00")
    line = text.count("\n", 0, at) + 1
    wide = text.count("\x00") > len(text) // 4
    hint = "The file looks like UTF-16: set `data.encoding: utf-16`." if wide else "Remove it; it is not text."
    raise DataError(f"{name}: line {line} holds a NUL character. {hint}")


def rows_by_size(known: object, other: object, rows: int) -> int | None:
    """About how many rows a file has by its size, where one of the same kind has this many; None for other sources."""
    if not all(isinstance(source, (str, Path)) and Path(source).is_file() for source in (known, other)):
        return None
    first, second = Path(str(known)), Path(str(other))
    if first.suffix != second.suffix or first.stat().st_size == 0:
        return None
    return max(1, round(rows * second.stat().st_size / first.stat().st_size))


def digest_of_path(path: Path, *, role: str) -> str:
    """sha256 of a file's bytes, or of the names and bytes of all files in a folder.

    Raises:
        DataError: something there cannot be read.
    """
    digest = hashlib.sha256()
    check_readable(path, role=role)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\x00".encode() if path.is_dir() else b"")
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"data.{role}: {file} cannot be read ({error.strerror}).") from error
    return digest.hexdigest()
