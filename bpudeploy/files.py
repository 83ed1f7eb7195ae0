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
    """Sync a file's bytes, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is synced to disk and renamed to ``path``.

    After a crash or an error ``path`` has either its old or its new content.
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
    """Hold a lock on a file, created if missing, or on a folder; yield its descriptor.

    The kernel releases the lock when the process ends.

    Args:
        shared: take a shared lock.
        wait: timeout in seconds; may be ``math.inf``.
        waiting: called once if another process has the lock.

    Raises:
        Locked: another process has the lock, and the wait is over.
    """
    read_only = path.is_dir() or (shared and path.exists())  # a reader may not have the right to write
    handle = os.open(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT, 0o644)
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


def append_lines(path: Path, lines: Iterator[str] | list[str], *, create: bool = True) -> None:
    """Append lines to a file that several processes append to, one write per line, and sync them to disk.

    An incomplete last line, from a crash or a full disk, is terminated first and stays a separate line.

    Args:
        create: create a missing file.

    Raises:
        OSError: a line could not be written completely, or the file is missing.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), 0o644)
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
