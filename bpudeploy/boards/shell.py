"""Run a command or a login shell on a board, attached to this terminal, with the SSH settings that push uses."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.boards.address import Address
from bpudeploy.boards.connect import connected
from bpudeploy.errors import BoardError

if TYPE_CHECKING:
    import asyncssh

STEP = "shell"
_SIGNAL_STATUS = 128


def shell(address: Address, argv: Sequence[str]) -> int:
    """Run ``argv``, or a login shell if it is empty, with this process's standard streams; return the exit status.

    ``argv`` is not interpreted by a shell: use ``sh -c '...'`` for that. A login shell gets a pseudo-terminal if
    standard input and output are a terminal.

    Raises:
        BoardError: as ``connected``, or the connection was lost.
    """
    with connected(address, name=str(address)) as (runner, connection):
        return runner.run(_attach(connection, str(address), argv))


async def _attach(connection: asyncssh.SSHClientConnection, board: str, argv: Sequence[str]) -> int:
    import asyncssh

    terminal = not argv and sys.stdin.isatty() and sys.stdout.isatty()
    options: dict[str, Any] = {"request_pty": False}
    if terminal:
        size = os.get_terminal_size(sys.stdout.fileno())
        options = {"request_pty": "force", "term_type": os.environ.get("TERM", "vt100"), "term_size": tuple(size)}
    # asyncssh closes what it is given: give it duplicates
    streams = {name: os.dup(number) for number, name in enumerate(("stdin", "stdout", "stderr"))}
    if os.path.samestat(os.fstat(0), Path(os.devnull).stat()):  # asyncio cannot poll it
        os.close(streams["stdin"])
        streams["stdin"] = asyncssh.DEVNULL
    try:
        with _raw(terminal):
            process = await connection.create_process(
                shlex.join(argv) if argv else None, encoding=None, **options, **streams
            )
            if terminal:
                asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, _resize, process)
            done = await process.wait()
    except (asyncssh.Error, OSError) as error:
        raise BoardError(str(error), board=board, step=STEP, hint="does this account have a shell?") from error
    if done.exit_signal:
        return _SIGNAL_STATUS + int(getattr(signal, f"SIG{done.exit_signal[0]}", 0))
    if done.exit_status is None or done.exit_status < 0:
        raise BoardError("the connection was lost", board=board, step=STEP, hint="run `bpudeploy boards doctor`")
    return int(done.exit_status)


def _resize(process: asyncssh.SSHClientProcess[bytes]) -> None:
    width, height = os.get_terminal_size(sys.stdout.fileno())
    process.change_terminal_size(width, height)


@contextmanager
def _raw(terminal: bool) -> Iterator[None]:
    """Put the terminal into raw mode; on exit, restore it and the streams' blocking mode."""
    before = termios.tcgetattr(0) if terminal else None
    try:
        if terminal:
            tty.setraw(0, termios.TCSADRAIN)  # TCSADRAIN keeps type-ahead, as ssh does
        yield
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number in range(3):
            os.set_blocking(number, True)  # asyncio made the shared terminal non-blocking
