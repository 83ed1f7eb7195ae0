"""Files that survive a crash: atomic replacement, syncing, locks between processes, appended lines."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Locked(Exception):
    """Another process has the lock."""


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; at the end it is forced to the disk and renamed to ``path``.

    After a crash or an error ``path`` has its old bytes or the new ones, never a mixture.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink()
    sync(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: float = 0.0, waiting: Callable[[], None] = lambda: None
) -> Iterator[int]:
    """Hold the lock of a file, created if missing, or of a folder; give its descriptor.

    The kernel frees the lock when the process ends, however it ends.

    Args:
        shared: others may hold it shared at the same time.
        wait: seconds to wait for it; ``math.inf`` waits for ever.
        waiting: called once if another process has it.

    Raises:
        Locked: another process had it all the time.
    """
    folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait, waiting)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, how: int, wait: float, waiting: Callable[[], None]) -> None:
    with suppress(BlockingIOError):
        return fcntl.flock(handle, how | fcntl.LOCK_NB)
    waiting()
    if wait == math.inf:
        return fcntl.flock(handle, how)
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        time.sleep(0.05)
        with suppress(BlockingIOError):
            return fcntl.flock(handle, how | fcntl.LOCK_NB)
    raise Locked


def append_lines(path: Path, lines: Iterator[str] | list[str]) -> None:
    """Add lines to a file that several processes add to, one write each; they are on the disk when this returns.

    A last line that was cut off, by a crash or a full disk, is ended first and stays a line of its own.

    Raises:
        OSError: a line could not be written whole.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        start = b"" if size == 0 or os.pread(handle, 1, size - 1) == b"\n" else b"\n"
        for text in lines:
            line = start + text.encode() + b"\n"
            written = os.write(handle, line)
            if written != len(line):
                raise OSError(f"{path}: {written} of {len(line)} bytes were written; is the disk full?")
            start = b""
        os.fdatasync(handle)
    finally:
        os.close(handle)
