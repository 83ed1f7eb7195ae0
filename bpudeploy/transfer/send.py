"""send: copy a file to a board, verified there by sha256, sending only the bytes that the board lacks."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.transfer.channel import Channel, RemoteState, look, receive
from bpudeploy.transfer.delta import Copy, Part, parts
from bpudeploy.transfer.receiver import SPAN

_BASE_BYTES = 4
"""Bytes of bases to hash per byte of the file: their block digests are then at most 1 % of it."""


class SendMethod(StrEnum):
    """How a file was transferred."""

    WHOLE = "whole"
    RESUMED = "resumed"
    CHUNKED = "chunked"


@dataclass(frozen=True)
class SendResult:
    """Cost of a transfer."""

    wire_bytes: int
    """Payload in both directions, without SSH framing (about 0.1 %)."""
    reused_bytes: int
    """Bytes that the board already had, in the remote file or in a base."""
    method: SendMethod


def send(
    board: Board,
    local: Path,
    remote: PurePosixPath,
    *,
    bases: Sequence[PurePosixPath] = (),
    step: str,
    progress: Callable[[int, int], None] | None = None,
) -> SendResult:
    """Make ``remote`` equal to ``local``, and verify it on the board by sha256. Its folder must exist.

    The correct prefix of an existing ``remote`` is kept, and blocks of ``bases`` are copied on the board. The content
    of ``remote`` is undefined until this returns. If no prefix is kept, a new file is created, so that hard links to
    the old one are unchanged. Nothing is synced to disk.

    Args:
        local: must not change during the transfer.
        bases: files on the board that may contain parts of ``local``, the most similar first; may include ``remote``;
            missing ones are ignored.
        progress: called with the bytes done, including reused ones, and the total.

    Raises:
        BoardError: with the names of board and step. A repeated call resumes the transfer.
    """
    data, report = _mapped(local), progress or (lambda _done, _total: None)
    with ThreadPoolExecutor(1) as pool:
        channel = Channel(board, remote, step, len(data))
        expected = pool.submit(lambda: hashlib.sha256(data).digest())  # in parallel with the board
        for usable_bases in (bases, ()):  # retry without bases, in case one of them changed
            digest, reused, method = _transfer(channel, data, usable_bases, report)
            if digest in (None, expected.result()):
                return SendResult(channel.wire_bytes, reused, method)
    raise channel.error(
        f"the digest of {remote} was wrong twice", "is the board's disk or memory failing, or another program writing?"
    )


def _transfer(
    channel: Channel, data: memoryview, bases: Sequence[PurePosixPath], progress: Callable[[int, int], None]
) -> tuple[bytes | None, int, SendMethod]:
    """Return the sha256 of the remote file (None: it was already correct), the bytes reused, and the method."""
    state = look(channel, _BASE_BYTES * len(data), bases)
    kept = _correct_prefix(state, data)
    if kept == state.size == len(data):
        progress(kept, len(data))
        return None, kept, SendMethod.RESUMED
    if channel.remote in bases:
        kept = 0  # copied from the old file into a new one
    progress(kept, len(data))
    existing = [(base, digests) for base, digests in zip(bases, state.bases, strict=True) if digests]
    copied = 0

    def counted() -> Iterator[Part]:
        nonlocal copied
        for part in parts(data, kept, [digests for _, digests in existing]):
            copied += part.length if isinstance(part, Copy) else 0
            yield part

    digest = receive(channel, data, kept, counted(), [base for base, _ in existing], progress)
    method = SendMethod.CHUNKED if copied else SendMethod.RESUMED if kept else SendMethod.WHOLE
    return digest, kept + copied, method


def _correct_prefix(state: RemoteState, data: memoryview) -> int:
    """Return the length of the prefix that the remote file shares with ``data``, in complete spans and the last."""
    kept = 0
    for digest in state.spans:
        span = data[kept : min(kept + SPAN, state.size)]
        if hashlib.sha256(span).digest() != digest:
            break
        kept += len(span)
    return kept


def _mapped(path: Path) -> memoryview:
    """Map a file into memory; it stays mapped while there are references, such as a traceback."""
    with path.open("rb") as stream:
        size = path.stat().st_size  # an empty file cannot be mapped
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
