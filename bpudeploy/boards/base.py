"""The interface to a board: one connection that runs commands and moves files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import AnyStr, Generic, Protocol


@dataclass(frozen=True)
class CommandOutput(Generic[AnyStr]):
    """Exit status and output of a finished command; ``stdout`` is text or bytes."""

    status: int
    stdout: AnyStr
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


class RemoteProcess(Protocol):
    """A running command on a board, with line-based input and output."""

    def send(self, line: str) -> None:
        """Write one line to its standard input.

        Raises:
            BoardError: the input stays blocked. If the process or the connection has ended, ``receive`` raises.
        """

    def receive(self, timeout: float) -> str | None:
        """Return the next line of its standard output, or None after it exited with status 0.

        Raises:
            ConnectionLost: the connection was lost.
            BoardError: it exited with another status (the message has the end of stderr), or sent no line within
                ``timeout`` seconds.
        """


class Board(Protocol):
    """One connection to one board; not thread-safe.

    ``argv`` is a sequence; the driver quotes it once. Every wait has a timeout in seconds.
    All methods raise BoardError with the board's name and ``step``.
    """

    name: str
    python: str
    root: PurePosixPath

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> CommandOutput[str]:
        """Run a command to completion; a non-zero status is returned, not raised."""

    def start(self, argv: Sequence[str], *, step: str) -> AbstractContextManager[RemoteProcess]:
        """Start a command; on exit from the context its input is closed and it is terminated."""

    def run_with_input(
        self, argv: Sequence[str], chunks: Iterable[bytes], *, timeout: float, step: str
    ) -> CommandOutput[bytes]:
        """Run a command with ``chunks`` as its standard input, each requested after the previous one was sent.

        ``timeout`` limits the wait for each chunk to be sent, and for the exit after the last one. A command may
        exit before it has read all input; its status is still returned.
        """


BoardOpener = Callable[[], AbstractContextManager[Board]]
"""Returns a context manager that connects on entry."""
