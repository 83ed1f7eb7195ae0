"""Common parts of both transfer methods: remote commands with input, byte counts and errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.errors import BoardError

_IDLE_TIMEOUT_S = 60.0
_MIN_READ_RATE = 5e6
"""Bytes per second at which even a slow board reads and hashes a file."""


@dataclass(frozen=True)
class RemoteState:
    """What the board already has: ``spans`` are the sha256 of each SPAN bytes of the remote file."""

    size: int
    """Bytes; -1 if there is no file."""
    spans: tuple[bytes, ...]
    bases: tuple[bytes, ...] = ()
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

    def failed(self, reply: CommandOutput[bytes]) -> BoardError:
        """Return the error for a command that could not read or write the file."""
        text = reply.stderr.strip() or f"exit status {reply.status}"
        full = "no space" in text.lower() or "quota" in text.lower()
        hint = "free some space on the board" if full else "check the folder and its permissions on the board"
        return self.error(
            f"{self.remote} could not be written: {text[-500:]}", f"{hint}, then repeat: the transfer is resumed"
        )
