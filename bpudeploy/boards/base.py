"""What a board is to us: one connection that runs commands and moves files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol


@dataclass(frozen=True)
class Output:
    """What a finished command said."""

    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


@dataclass(frozen=True)
class Reply:
    """What a finished command that was fed said: its stdout as the bytes it is."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


class Dialogue(Protocol):
    """A command that runs on a board, and answers what it is told."""

    def say(self, line: str) -> None:
        """Send one line.

        Raises:
            BoardError: it takes none any more; ``hear`` tells why.
        """
        ...

    def hear(self, timeout: float) -> str | None:
        """Return the next line of its output; None when it has ended well.

        Raises:
            ConnectionLost: the connection ended first.
            BoardError: it ended with a non-zero status (with its last words), or was silent for ``timeout`` seconds.
        """
        ...


class Board(Protocol):
    """One connection to one board; not safe to call from two threads.

    ``argv`` is a sequence: quoting happens once, in the driver. Every wait has a timeout (seconds).
    All methods raise BoardError, naming the board and ``step``.
    """

    name: str
    python: str
    root: PurePosixPath

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> Output:
        """Run a command to its end; a non-zero status is returned, not raised."""
        ...

    def converse(self, argv: Sequence[str], *, step: str) -> AbstractContextManager[Dialogue]:
        """Start a command and talk with it, line by line; at the end its input closes, and it is ended."""
        ...

    def feed(self, argv: Sequence[str], pieces: Iterable[bytes], *, timeout: float, step: str) -> Reply:
        """Run a command with ``pieces`` on its standard input, each asked for when the one before is on its way.

        ``timeout`` is the longest wait for one piece to be taken, and for the end after the last. A command may
        end before it has read all: its status is returned as ever.
        """
        ...


BoardOpener = Callable[[], AbstractContextManager[Board]]
"""Opens the connection when entered; nothing happens before."""
