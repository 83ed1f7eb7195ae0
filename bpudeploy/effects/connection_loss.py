"""Diagnosis of a lost connection: a reboot, a board that does not answer, or only the network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.errors import BoardError, ConnectionLost

_BOOT = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/uptime"
_ANSWER_S = 30.0
_RETURN_S = 90.0
"""How long to wait for the board to answer again; a reboot takes about a minute."""
_POLL_S = 2.0


@contextmanager
def open_diagnosed(opener: BoardOpener, *, patience_s: float = _RETURN_S) -> Iterator[Board]:
    """Open a board; if the connection is lost, reconnect to find out why, and report it in the error.

    Raises:
        ConnectionLost: with the cause: the board was rebooted, does not answer, or only the connection was lost.
    """
    before = None
    try:
        with opener() as board:
            before = _boot(board)
            yield board
    except ConnectionLost as error:
        why = _cause(opener, before[0], patience_s) if before else "right after connecting"
        raise ConnectionLost(
            f"the connection was lost: {why}",
            board=error.board,
            step=error.step,
            hint="run again: finished work is not repeated",
        ) from error


def _boot(board: Board) -> tuple[str, float] | None:
    """Return the kernel's boot id and the uptime in seconds; None if they cannot be read."""
    out = board.run(["sh", "-c", _BOOT], timeout=_ANSWER_S, step="login")
    name, _, uptime = out.stdout.strip().partition("\n")
    try:
        return name, float(uptime)
    except ValueError:
        return None


def _cause(opener: BoardOpener, before: str, patience_s: float) -> str:
    deadline = time.monotonic() + patience_s
    while True:
        with suppress(BoardError), opener() as board:
            now = _boot(board)
            if now is None:
                return "it answers again"
            if now[0] != before:
                return f"the board was rebooted, {now[1]:.0f} s ago"
            return "the board was not rebooted, and answers again"
        if time.monotonic() >= deadline:
            return f"the board did not answer for {patience_s:.0f} s after that"
        time.sleep(_POLL_S)
