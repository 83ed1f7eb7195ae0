"""The board's side of a transfer: the two commands of ``receiver.py``, run by the board's Python, and their errors."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.boards.ssh import CHUNK
from bpudeploy.errors import BoardError
from bpudeploy.transfer.compress import LEVEL, CompressionPolicy
from bpudeploy.transfer.delta import Copy, Part
from bpudeploy.transfer.receiver import COPY, COUNT, DEFLATED, DIGEST, END, MAGIC, ORDER, RAW, SPAN

_IDLE_TIMEOUT_S = 60.0
_MIN_READ_RATE = 5e6
"""Bytes per second at which even a slow board reads and hashes a file."""


@dataclass(frozen=True)
class RemoteState:
    """What the board already has: ``spans`` are the sha256 of each SPAN bytes of the remote file."""

    size: int
    """Bytes; -1 if there is no file."""
    spans: tuple[bytes, ...]
    bases: tuple[bytes, ...]
    """The block digests of each base."""


class Channel:
    """A board during one transfer. ``wire_bytes`` counts the payload in both directions, without SSH framing."""

    def __init__(self, board: Board, remote: PurePosixPath, step: str, size: int) -> None:
        self.python = board.python
        self.remote = remote
        self.wire_bytes = 0
        self._board, self._step = board, step
        self._timeout = _IDLE_TIMEOUT_S + size / _MIN_READ_RATE

    def run(self, argv: Sequence[str], pieces: Iterable[bytes] = ()) -> CommandOutput[bytes]:
        """Run a command with ``pieces`` as its input."""
        self.wire_bytes += sum(len(word.encode()) for word in argv)
        reply = self._board.run_with_input(argv, self._counted(pieces), timeout=self._timeout, step=self._step)
        self.wire_bytes += len(reply.stdout) + len(reply.stderr.encode())
        return reply

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.wire_bytes += len(piece)
            yield piece

    def error(self, message: str, hint: str) -> BoardError:
        """Return an error with the names of the board and the step."""
        return BoardError(message, board=self._board.name, step=self._step, hint=hint)

    def no_python(self, reply: CommandOutput[bytes]) -> BoardError:
        """Return the error for a board whose Python did not run the receiver."""
        lines = reply.stderr.strip().splitlines() or [f"exit status {reply.status}"]
        return self.error(
            f"no Python 3.8 or newer: {self.python!r} failed ({lines[-1][-300:]})",
            "install Python 3.8 or newer on the board, or set board.python in the target",
        )

    def failed(self, reply: CommandOutput[bytes]) -> BoardError:
        """Return the error for a command that could not read or write the file."""
        text = reply.stderr.strip() or f"exit status {reply.status}"
        full = "no space" in text.lower() or "quota" in text.lower()
        hint = "free some space on the board" if full else "check the folder and its permissions on the board"
        return self.error(
            f"{self.remote} could not be written: {text[-500:]}", f"{hint}, then repeat: the transfer is resumed"
        )


@cache
def _script() -> str:
    return Path(__file__).with_name("receiver.py").read_text()


def _argv(channel: Channel, verb: str, number: int, bases: Sequence[PurePosixPath]) -> list[str]:
    return [channel.python, "-I", "-S", "-c", _script(), verb, str(channel.remote), str(number), *map(str, bases)]


def look(channel: Channel, limit: int, bases: Sequence[PurePosixPath]) -> RemoteState:
    """Return the board's state, with digests of at most ``limit`` bytes of the bases.

    Raises:
        BoardError: the board has no usable Python, or the file cannot be read.
    """
    reply = channel.run(_argv(channel, "look", limit, bases))
    if not reply.stdout.startswith(MAGIC):
        raise channel.no_python(reply)
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
