"""What a board is to us: one connection that runs commands and moves files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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

    def stream(self, argv: Sequence[str], *, timeout: float, step: str) -> Iterator[str]:
        """Yield stdout line by line as it comes; ``timeout`` is the longest silence.

        Raises BoardError on a non-zero status, with the last lines of stderr. The remote process is
        ended when the iterator is closed.
        """
        ...

    def feed(self, argv: Sequence[str], pieces: Iterable[bytes], *, timeout: float, step: str) -> Reply:
        """Run a command with ``pieces`` on its standard input, each asked for when the one before is on its way.

        ``timeout`` is the longest wait for one piece to be taken, and for the end after the last. A command may
        end before it has read all: its status is returned as ever.
        """
        ...

    def put(
        self, local: Path, remote: PurePosixPath, *, step: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy a file, unverified; ``progress(done_bytes, total_bytes)``. The remote folder must exist."""
        ...


BoardOpener = Callable[[], AbstractContextManager[Board]]
"""Opens the connection when entered; nothing happens before."""
