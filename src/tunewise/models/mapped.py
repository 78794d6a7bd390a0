"""Weights that are mapped from their file need not be in memory while nobody reads them."""

import ctypes
from pathlib import Path

PAGEOUT = 21
"""MADV_PAGEOUT of Linux: unchanged pages of a file leave memory, and come back from the file when they are read."""


def set_aside(folder: Path) -> None:
    """Let what this process has mapped of the files of a folder leave its memory; nothing where that is not known."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    files = {str(path.resolve()) for path in folder.iterdir()}
    libc = ctypes.CDLL(None)
    for line in maps.read_text("utf-8").splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path in files:
            start, stop = (int(end, 16) for end in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), PAGEOUT)
