"""Reservations: a person's or a job's hold on a board for hours, and the queue of those who want it next.

Apart from the lock, which lasts for one push: while a board is reserved, push and rollback refuse everybody else.
On the board it is the link ``reservation``, and the queue is links too: all of it survives a restart, and nothing of
it asks who is alive. A reservation ends by the board's own clock. On a board that starts without the right time it
therefore lasts longer, by as much as its clock is behind; one that was made while the clock was behind ends when the
clock is set. Who waits asks again and again; the place of one who has not asked for a minute is given up, by a clock
that nobody sets. When the board is free, it goes to the first of the queue and to nobody else.
See ``scripts/queue.sh`` for why there are never two at it.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from bpudeploy.boards.base import Board
from bpudeploy.effects.hold import NO_END, Hold, Reserved, clean
from bpudeploy.effects.lock import owner
from bpudeploy.effects.script import Facts, Script, ask
from bpudeploy.errors import BoardError, UsageError
from bpudeploy.events import Event, Note

__all__ = ["Pace", "Reservation", "Reserved", "refuse_reserved", "release", "reservation", "reserve"]

RESERVE, RELEASE = "reserve", "release"
_LONGEST_S = 366 * 86400
_WHY = 200
"""Characters."""
_BUSY_S = 60.0


@dataclass(frozen=True)
class Pace:
    """How often one who waits asks (``poll_s``), and after how much silence a place is given up (``silence_s``)."""

    poll_s: float = 10.0
    silence_s: int = 60


USUAL = Pace()


@dataclass(frozen=True)
class Reservation:
    """Who has a board until when (by its clock), and why; ``ahead`` wait for it before us, none when it is ours."""

    owner: str
    until: datetime
    why: str
    mine: bool
    ahead: int


def reserve(
    board: Board,
    *,
    seconds: float,
    why: str,
    wait_s: float,
    emit: Callable[[Event], None],
    pace: Pace = USUAL,
    job: str = "",
) -> Reservation:
    """Hold a board for ``seconds`` from now, for this user of this machine; what they hold already is made longer.

    Args:
        job: one word; what is held for a job is not its user's own, and the other way round.
        why: told to others, as one line of 200 characters at most.
        wait_s: how long to wait in the queue; 0 asks once and does not queue.

    Raises:
        Reserved: another had it, or was before us, all the time.
        UsageError: it is for no time, or for more than a year.
        BoardError: the board cannot.
    """
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"a board cannot be reserved for {seconds:g} s", hint="between a second and a year")
    token, me = secrets.token_hex(8), _me(job)
    how = "wait" if wait_s > 0 else "take"
    arguments = [how, token, me, str(math.ceil(seconds)), str(pace.silence_s), clean(why)[:_WHY]]
    deadline, told = time.monotonic() + wait_s, False
    try:
        while "taken" in (facts := _alone(board, Script.RESERVE, arguments, RESERVE)).all("state"):
            said, refusal = _refusal(board, facts)
            if (left := deadline - time.monotonic()) <= 0:
                raise refusal
            if not told:
                emit(Note(RESERVE, f"{said}: waiting"))
                told = True
            time.sleep(min(pace.poll_s, left))
    except BaseException:
        if how == "wait":
            with suppress(BoardError):  # the first error is the one to tell; a place that stays is given up
                ask(board, Script.RELEASE, [str(board.root), "leave", token, me], step=RESERVE)
        raise
    return _reservation(facts.one("reserved", board=board, step=RESERVE), me, 0)


def release(board: Board, *, force: bool, job: str = "") -> Reservation | None:
    """Give our reservation back, or with ``force`` anybody's; returns what it was, None if there was none.

    Args:
        job: that of ``reserve``.

    Raises:
        Reserved: it is somebody else's.
        BoardError: the board cannot.
    """
    me = _me(job)
    arguments = ["force" if force else "mine", secrets.token_hex(8), me]
    facts = _alone(board, Script.RELEASE, arguments, RELEASE)
    return _reservation(facts.all("reserved")[0], me, 0) if "reserved" in facts else None


def reservation(board: Board) -> Reservation | None:
    """Return who has reserved a board, None if nobody has; ``ahead`` are all who wait. Changes nothing there.

    Raises:
        BoardError: the board cannot say.
    """
    me = _me()
    arguments = [str(board.root), "look", secrets.token_hex(8), me, "0", str(USUAL.silence_s), ""]
    facts = ask(board, Script.RESERVE, arguments, step=RESERVE)
    if "reserved" not in facts:
        return None
    return _reservation(facts.all("reserved")[0], me, facts.number("ahead", board=board, step=RESERVE))


def refuse_reserved(board: Board) -> None:
    """Refuse to measure on a board that somebody else has reserved: it would spoil their figures and ours.

    Raises:
        Reserved: it is somebody else's, a job of ours included.
    """
    held = reservation(board)
    if held is not None and not held.mine:
        raise Hold(held.owner, held.until, held.why).refusal(board=board.name, step="benchmark")


def _me(job: str = "") -> str:
    """Return who we are, as locks say it, without the process."""
    return owner().partition(" ")[0] + (f"+{job}" if job else "")


def _alone(board: Board, script: Script, arguments: list[str], step: str) -> Facts:
    """Ask, again while others are at it: each is at it for some milliseconds."""
    deadline = time.monotonic() + _BUSY_S
    while "busy" in (facts := ask(board, script, [str(board.root), *arguments], step=step)).all("state"):
        if time.monotonic() > deadline:
            raise BoardError("others reserve it at this moment", board=board.name, step=step, hint="run again")
        time.sleep(random.uniform(0.02, 0.3))
    return facts


def _refusal(board: Board, facts: Facts) -> tuple[str, Reserved]:
    """Return why we do not have it yet, in words and as an error."""
    ahead = facts.number("ahead", board=board, step=RESERVE)
    if "reserved" in facts:
        hold = Hold.parse(facts.all("reserved")[0])
        said = str(hold)
    else:
        _boot, _, ticket = facts.one("next", board=board, step=RESERVE).partition(" ")
        hold = replace(Hold.parse(ticket), until=NO_END)
        said = f"{hold.owner} is the next to have it" + (f": {hold.why}" if hold.why else "")
    if ahead:
        said += f" ({ahead} ahead of us in the queue)"
    return said, Reserved(said, board=board.name, step=RESERVE, hold=hold)


def _reservation(text: str, me: str, ahead: int) -> Reservation:
    hold = Hold.parse(text)
    return Reservation(hold.owner, hold.until, hold.why, hold.owner == me, ahead if hold.owner != me else 0)
