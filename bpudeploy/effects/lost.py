"""A connection that is lost in the middle: was the board rebooted, is it gone, or was it only the network?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.errors import BoardError, ConnectionLost

_BOOT = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/uptime"
_ANSWER_S = 30.0
_RETURN_S = 90.0
"""How long a board is given to come back, before it is called gone; a reboot takes about a minute."""
_POLL_S = 2.0


@contextmanager
def watched(opener: BoardOpener, *, patience_s: float = _RETURN_S) -> Iterator[Board]:
    """Open a board; if the connection is lost in the middle, ask it why, and say so in the error.

    Raises:
        ConnectionLost: saying that it was rebooted, that only the connection was lost, or that it does not answer.
    """
    before = None
    try:
        with opener() as board:
            before = _boot(board)
            yield board
    except ConnectionLost as error:
        why = _why(opener, before[0], patience_s) if before else "it was lost at once"
        raise ConnectionLost(
            f"the connection was lost: {why}",
            board=error.board,
            step=error.step,
            hint="run again: what was done and told is not done again",
        ) from error


def _boot(board: Board) -> tuple[str, float] | None:
    """Return the kernel's name for this start of the board, and the seconds since; None where it does not say."""
    out = board.run(["sh", "-c", _BOOT], timeout=_ANSWER_S, step="login")
    name, _, uptime = out.stdout.strip().partition("\n")
    try:
        return name, float(uptime)
    except ValueError:
        return None


def _why(opener: BoardOpener, before: str, patience_s: float) -> str:
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
