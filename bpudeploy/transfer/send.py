"""send: make a file on a board equal to one here, verified there by sha256, sending what it does not have."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.transfer import with_python, with_shell
from bpudeploy.transfer.channel import Channel, Held
from bpudeploy.transfer.delta import Copy, Part, parts
from bpudeploy.transfer.receiver import SPAN

_SEARCHED = 4
"""Bytes of bases that are looked at, per byte of the file: their records are then at most 1 % of it."""


class How(StrEnum):
    """How a file got there."""

    WHOLE = "whole"
    RESUMED = "resumed"
    CHUNKED = "chunked"


@dataclass(frozen=True)
class Sent:
    """What a transfer cost."""

    wire_bytes: int
    """Payload on the channel, both ways, without SSH's own framing (about 0.1 %)."""
    reused_bytes: int
    """Bytes of the file that the board had already, in part of the file or in a base."""
    how: How


def send(
    board: Board,
    local: Path,
    remote: PurePosixPath,
    *,
    bases: Sequence[PurePosixPath] = (),
    step: str,
    progress: Callable[[int, int], None] | None = None,
) -> Sent:
    """Make ``remote`` equal to ``local``, and verify it on the board by sha256. Its folder must exist.

    What ``remote`` holds already is kept as far as it is right; blocks of ``bases`` are copied there. Until this
    returns, ``remote`` may hold anything: nothing may use it. Another name (a hard link) of a ``remote`` of which
    nothing is right keeps its bytes. Nothing is synced to the disk.

    Args:
        local: must not change meanwhile.
        bases: files on the board that may hold parts of ``local``, the likeliest first; one may be ``remote``
            itself; those that are not there, or are on a board without Python, are passed over.
        progress: called with bytes done, those that the board had included, and bytes in all.

    Raises:
        BoardError: naming the board and the step. Sending again goes on from what has arrived.
    """
    data = _mapped(local)
    with ThreadPoolExecutor(1) as beside:
        channel = Channel(board, remote, step, len(data))
        wanted = beside.submit(lambda: hashlib.sha256(data).digest())  # while the board answers
        for tried in (bases, ()):  # a base that is not what it says is not asked twice
            digest, reused, how = _make(channel, data, tried, progress or _nothing)
            if digest in (None, wanted.result()):
                return Sent(channel.wire_bytes, reused, how)
    raise channel.error(
        f"{remote} is not what was sent, twice", "is its disk or memory failing, or does something else write there?"
    )


def _make(
    channel: Channel, data: memoryview, bases: Sequence[PurePosixPath], progress: Callable[[int, int], None]
) -> tuple[bytes | None, int, How]:
    """Return the sha256 of what the board has made (None: it was right already), the bytes it had, and how."""
    held = with_python.look(channel, _SEARCHED * len(data), bases)
    has_python = held is not None
    held = held or with_shell.look(channel)
    kept = _right(held, data)
    if kept == held.size == len(data):
        progress(kept, len(data))
        return None, kept, How.RESUMED
    if channel.remote in bases:
        kept = 0  # copied from the old file into a new one
    progress(kept, len(data))
    if not has_python:
        digest = with_shell.receive(channel, data, kept, progress)
        return digest, kept, How.RESUMED if kept else How.WHOLE
    there = [(base, records) for base, records in zip(bases, held.bases, strict=True) if records]
    copied = 0

    def noted() -> Iterator[Part]:
        nonlocal copied
        for part in parts(data, kept, [records for _, records in there]):
            copied += part.length if isinstance(part, Copy) else 0
            yield part

    digest = with_python.receive(channel, data, kept, noted(), [base for base, _ in there], progress)
    return digest, kept + copied, How.CHUNKED if copied else How.RESUMED if kept else How.WHOLE


def _right(held: Held, data: memoryview) -> int:
    """Return how many of the first bytes of the board's file are those of ``data``, in whole spans and the last."""
    kept = 0
    for digest in held.spans:
        span = data[kept : min(kept + SPAN, held.size)]
        if hashlib.sha256(span).digest() != digest:
            break
        kept += len(span)
    return kept


def _nothing(done: int, total: int) -> None:
    """Take progress that nobody asked for."""


def _mapped(path: Path) -> memoryview:
    """Map a file, for as long as anything looks at it: a traceback may, long after an error."""
    with path.open("rb") as stream:
        size = path.stat().st_size  # nothing cannot be mapped
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
