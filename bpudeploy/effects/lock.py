"""One deployer at a time: a board's lock names its owner, and is taken over when the owner shows no life.

No wall clock is compared with another. A lock counts as stale when neither it nor the uploads changed for ``lease_s``
seconds of the board's own uptime while we watched, when it was taken before the board's last start, or when its
owner was a process of this machine that is gone. A sign of life is a growing upload, or the lock renewed.
The lock keeps order; what keeps a board whole does not depend on it: releases arrive under names of their own, and
installing refuses when the lock or the current release is no longer what it was.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bpudeploy.boards.base import Board
from bpudeploy.effects.script import Facts
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note

_POLL_S = 2.0


@dataclass(frozen=True)
class Patience:
    """How long to wait for another deployer (``wait_s``), and after how much silence to take over (``lease_s``)."""

    wait_s: float = 600.0
    lease_s: float = 60.0


USUAL = Patience()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, in the board's own time."""

    text: str
    owner: str
    boot: str
    taken_s: float
    now_s: float

    @classmethod
    def parse(cls, facts: Facts, *, board: Board, step: str) -> Holder:
        """Read what a script says of a lock that it did not get.

        Raises:
            BoardError: the lock's text is none of ours.
        """
        text = facts.one("held", board=board, step=step)
        now = facts.one("now", board=board, step=step)
        try:
            _token, boot, taken, owner = text.split(" ", 3)
            return cls(text, owner, boot, float(taken), float(now.split(" ")[1]))
        except (ValueError, IndexError) as error:
            raise BoardError(
                f"its lock says {text!r}, which is none of ours",
                board=board.name,
                step=step,
                hint=f"if nobody deploys to it, remove {board.root}/lock there",
            ) from error

    def __str__(self) -> str:
        since = datetime.now().astimezone() - timedelta(seconds=self.now_s - self.taken_s)
        return f"{self.owner} holds its lock, last renewed at {since:%H:%M:%S}"


def owner() -> str:
    """Return who we are, as a lock says it."""
    return f"{_machine()} pid {os.getpid()}"


def locked(
    board: Board, attempt: Callable[[str], Facts], patience: Patience, emit: Callable[[Event], None], *, step: str
) -> Facts:
    """Call ``attempt(stale)`` until its script gets the lock, and return what it said then.

    ``stale`` is the text of a lock that may be taken over, or empty.

    Raises:
        BoardError: another held it all the time.
    """
    deadline = time.monotonic() + patience.wait_s
    told = False
    life, alive_s, stale = "", 0.0, ""
    while "held" in (facts := attempt(stale)):
        holder = Holder.parse(facts, board=board, step=step)
        signs = f"{holder.text} {facts.all('life')}"
        if signs != life or holder.now_s < alive_s:
            life, alive_s = signs, holder.now_s
        stale = holder.text if holder.now_s - alive_s >= patience.lease_s or _gone(holder.owner) else ""
        if time.monotonic() >= deadline:
            raise BoardError(
                f"{holder}; waited {patience.wait_s:g} s", board=board.name, step=step, hint="wait, or ask them"
            )
        if stale:
            emit(Note(step, f"{holder}, and shows no life: taking over"))
            continue
        if not told:
            emit(Note(step, f"{holder}: waiting"))
            told = True
        time.sleep(min(_POLL_S, patience.lease_s / 4))
    return facts


def _machine() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        user = str(os.getuid())
    name = f"{user}@{socket.gethostname()}"
    return "".join(c if c.isprintable() and not c.isspace() else "_" for c in name)


def _gone(owner: str) -> bool:
    """Tell whether a lock's owner was a process of this machine that has ended."""
    machine, _, pid = owner.partition(" pid ")
    if machine != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
