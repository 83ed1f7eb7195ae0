"""Reservations: a user or a job reserves a board for hours, and others wait in a queue.

Unlike the lock, which lasts for one push, a reservation makes push and rollback refuse everybody else. On the board it
is the link ``reservation``, and the queue is links too, so both survive a reboot. A reservation ends by the board's
wall clock: while that clock is behind, it lasts longer; one made while it was behind ends when the clock is set.
Waiting clients poll; a queue entry that was not polled for a minute of uptime is dropped. A free board goes to the
first in the queue only. ``scripts/queue.sh`` explains the mutual exclusion.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from bpudeploy.boards.base import Board
from bpudeploy.effects.lock import owner
from bpudeploy.effects.reservation import NO_END, Reservation, Reserved, clean
from bpudeploy.effects.script import Script, ScriptOutput, run_script
from bpudeploy.errors import BoardError, UsageError
from bpudeploy.events import Event, Note

__all__ = ["QueueTiming", "ReservationStatus", "Reserved", "refuse_reserved", "release", "reservation", "reserve"]

RESERVE, RELEASE = "reserve", "release"
_LONGEST_S = 366 * 86400
_WHY = 200
"""Maximum characters."""
_BUSY_S = 60.0


@dataclass(frozen=True)
class QueueTiming:
    """How often a waiting client polls (``poll_s``), and when an entry without polls is dropped (``silence_s``)."""

    poll_s: float = 10.0
    silence_s: int = 60


DEFAULT_TIMING = QueueTiming()


@dataclass(frozen=True)
class ReservationStatus(Reservation):
    """A reservation as this user sees it; ``ahead`` counts the queue entries before us, 0 if it is ours."""

    mine: bool
    ahead: int


def reserve(
    board: Board,
    *,
    seconds: float,
    why: str,
    wait_s: float,
    emit: Callable[[Event], None],
    timing: QueueTiming = DEFAULT_TIMING,
    job: str = "",
) -> ReservationStatus:
    """Reserve a board for ``seconds`` from now, for this user on this machine; an own reservation is extended.

    Args:
        job: one word that makes the reservation separate from the user's other ones.
        why: reason that others see, one line of at most 200 characters.
        wait_s: how long to wait in the queue; 0 tries once without queueing.

    Raises:
        Reserved: somebody else has it, or is ahead in the queue, until ``wait_s`` is over.
        UsageError: ``seconds`` is not between a second and a year.
        BoardError: the board cannot be reserved.
    """
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"a board cannot be reserved for {seconds:g} s", hint="between a second and a year")
    token, me = secrets.token_hex(8), _owner(job)
    how = "wait" if wait_s > 0 else "take"
    arguments = [how, token, me, str(math.ceil(seconds)), str(timing.silence_s), clean(why)[:_WHY]]
    deadline, reported = time.monotonic() + wait_s, False
    try:
        while "taken" in (output := _run(board, Script.RESERVE, arguments, RESERVE)).all("state"):
            refusal = _refusal(output)
            if (left := deadline - time.monotonic()) <= 0:
                raise refusal
            if not reported:
                emit(Note(RESERVE, f"{refusal.reason}: waiting"))
                reported = True
            time.sleep(min(timing.poll_s, left))
    except BaseException:
        if how == "wait":
            with suppress(BoardError):  # report the first error; a queue entry that is left expires
                run_script(board, Script.RELEASE, ["leave", token, me], step=RESERVE)
        raise
    return _status(output.one("reserved"), me, 0)


def release(board: Board, *, force: bool, job: str = "") -> ReservationStatus | None:
    """End our reservation, or with ``force`` anybody's; return it, or None if there was none.

    Args:
        job: as for ``reserve``.

    Raises:
        Reserved: it is somebody else's.
        BoardError: the board could not be reached or changed.
    """
    me = _owner(job)
    arguments = ["force" if force else "mine", secrets.token_hex(8), me]
    output = _run(board, Script.RELEASE, arguments, RELEASE)
    return _status(output.all("reserved")[0], me, 0) if "reserved" in output else None


def reservation(board: Board) -> ReservationStatus | None:
    """Return a board's reservation, None if there is none; ``ahead`` counts the whole queue. Read-only.

    Raises:
        BoardError: it cannot be read.
    """
    me = _owner()
    arguments = ["look", secrets.token_hex(8), me, "0", str(DEFAULT_TIMING.silence_s), ""]
    output = run_script(board, Script.RESERVE, arguments, step=RESERVE)
    if "reserved" not in output:
        return None
    return _status(output.all("reserved")[0], me, output.number("ahead"))


def refuse_reserved(board: Board) -> None:
    """Refuse a board that somebody else, or another job of ours, has reserved.

    Raises:
        Reserved: it is reserved.
    """
    status = reservation(board)
    if status is not None and not status.mine:
        raise status.refusal(board=board.name, step=RESERVE)


def _owner(job: str = "") -> str:
    """Return the owner that our reservations name: the lock's without the process, and the job."""
    return owner().partition(" ")[0] + (f"+{job}" if job else "")


def _run(board: Board, script: Script, arguments: list[str], step: str) -> ScriptOutput:
    """Run a script, again while other processes run one of these; each takes some milliseconds."""
    deadline = time.monotonic() + _BUSY_S
    while "busy" in (output := run_script(board, script, arguments, step=step)).all("state"):
        if time.monotonic() > deadline:
            raise output.error("others are reserving it at this moment", "run again")
        time.sleep(random.uniform(0.02, 0.3))
    return output


def _refusal(output: ScriptOutput) -> Reserved:
    """Return the error for a board that somebody else has, or that others wait for before us."""
    ahead = output.number("ahead")
    if "reserved" in output:
        blocking = Reservation.parse(output.all("reserved")[0])
        reason = str(blocking)
    else:
        _boot, _, ticket = output.one("next").partition(" ")
        blocking = replace(Reservation.parse(ticket), until=NO_END)
        reason = f"{blocking.owner} is the next to have it" + (f": {blocking.why}" if blocking.why else "")
    if ahead:
        reason += f" ({ahead} ahead of us in the queue)"
    return Reserved(reason, board=output.board.name, step=RESERVE, reservation=blocking)


def _status(text: str, me: str, ahead: int) -> ReservationStatus:
    found = Reservation.parse(text)
    return ReservationStatus(found.owner, found.until, found.why, found.owner == me, ahead if found.owner != me else 0)
