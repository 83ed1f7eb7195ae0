"""Transfer to a board with Python: it copies its own blocks; other bytes are sent, compressed if worthwhile."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from bpudeploy.boards.ssh import CHUNK
from bpudeploy.transfer.channel import Channel, RemoteState
from bpudeploy.transfer.compress import LEVEL, CompressionPolicy
from bpudeploy.transfer.delta import Copy, Part
from bpudeploy.transfer.receiver import COPY, COUNT, DEFLATED, DIGEST, END, MAGIC, ORDER, RAW, SPAN


@cache
def _script() -> str:
    return Path(__file__).with_name("receiver.py").read_text()


def _argv(channel: Channel, verb: str, number: int, bases: Sequence[PurePosixPath]) -> list[str]:
    return [channel.python, "-I", "-S", "-c", _script(), verb, str(channel.remote), str(number), *map(str, bases)]


def look(channel: Channel, limit: int, bases: Sequence[PurePosixPath]) -> RemoteState | None:
    """Return the board's state, with at most ``limit`` bytes of the bases; None if Python is missing or too old."""
    reply = channel.run(_argv(channel, "look", limit, bases))
    if not reply.stdout.startswith(MAGIC):
        return None
    if not reply.ok:
        raise channel.failed(reply)
    rest = memoryview(reply.stdout)[len(MAGIC) :]

    def take(size: int) -> bytes:
        nonlocal rest
        taken, rest = bytes(rest[:size]), rest[size:]
        return taken

    def count() -> int:
        return int(COUNT.unpack(take(COUNT.size))[0])

    size = count()
    spans = tuple(take(32) for _ in range(-(-max(size, 0) // SPAN)))
    return RemoteState(size, spans, tuple(take(DIGEST.size * count()) for _ in bases))


def receive(
    channel: Channel,
    data: memoryview,
    kept: int,
    parts: Iterator[Part],
    bases: Sequence[PurePosixPath],
    progress: Callable[[int, int], None],
) -> bytes:
    """Have the board keep the first ``kept`` bytes and append ``parts``; return the sha256 of the result."""
    reply = channel.run(_argv(channel, "receive", kept, bases), _buffered(_orders(data, kept, parts, progress)))
    if not reply.ok or not reply.stdout.startswith(MAGIC):
        raise channel.failed(reply)
    return reply.stdout[len(MAGIC) :]


def _orders(
    data: memoryview, kept: int, parts: Iterator[Part], progress: Callable[[int, int], None]
) -> Iterator[bytes | memoryview]:
    policy = CompressionPolicy(data[kept:])
    sent = 0
    done = kept
    for part in parts:
        if isinstance(part, Copy):
            yield ORDER.pack(COPY, part.base, part.at, part.length)
            done += part.length
            progress(done, len(data))
            continue
        for at in range(part.start, part.end, CHUNK):
            piece: bytes | memoryview = data[at : min(at + CHUNK, part.end)]
            done += len(piece)
            kind = RAW
            if policy.compress_after(sent):
                compressed = zlib.compress(piece, LEVEL)
                piece, kind = (compressed, DEFLATED) if len(compressed) < len(piece) else (piece, RAW)
            yield ORDER.pack(kind, 0, 0, len(piece))
            yield piece
            sent += len(piece)
            progress(done, len(data))
    yield ORDER.pack(END, 0, 0, 0)


def _buffered(orders: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Join small orders, because each piece on the channel has overhead."""
    waiting, size = [], 0
    for order in orders:
        waiting.append(order)
        size += len(order)
        if size >= CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
