"""What both ways of sending have in common: commands that are fed, their bytes counted, their failures told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.errors import BoardError

_QUIET_S = 60.0
_SLOWEST = 5e6
"""Bytes per second at which a slow board still reads a file and digests it."""


@dataclass(frozen=True)
class Held:
    """What the board has already: ``spans`` are the sha256 of each SPAN bytes of the file, as it is there."""

    size: int
    """Bytes; -1 when there is no file."""
    spans: tuple[bytes, ...]
    bases: tuple[bytes, ...] = ()
    """The records of each base's blocks."""


class Channel:
    """A board, for one transfer. ``wire_bytes`` is what went over it, both ways, without SSH's own framing."""

    def __init__(self, board: Board, remote: PurePosixPath, step: str, size: int) -> None:
        self.python = board.python
        self.remote = remote
        self.wire_bytes = 0
        self._board, self._step = board, step
        self._timeout = _QUIET_S + size / _SLOWEST

    def say(self, argv: Sequence[str], pieces: Iterable[bytes] = ()) -> CommandOutput[bytes]:
        """Run a command and feed it; its status is returned."""
        self.wire_bytes += sum(len(word.encode()) for word in argv)
        reply = self._board.run_with_input(argv, self._counted(pieces), timeout=self._timeout, step=self._step)
        self.wire_bytes += len(reply.stdout) + len(reply.stderr.encode())
        return reply

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.wire_bytes += len(piece)
            yield piece

    def error(self, message: str, hint: str) -> BoardError:
        """Return the error that names the board and the step."""
        return BoardError(message, board=self._board.name, step=self._step, hint=hint)

    def failed(self, reply: CommandOutput[bytes]) -> BoardError:
        """Return the error for a command that could not look at the file or write it."""
        said = reply.stderr.strip() or f"exit status {reply.status}"
        full = "no space" in said.lower() or "quota" in said.lower()
        hint = "free some space there" if full else "check the folder and its permissions there"
        return self.error(
            f"{self.remote} could not be written: {said[-500:]}",
            f"{hint}, and send again: it goes on from what is there",
        )
