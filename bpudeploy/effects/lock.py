"""The deployment lock of a board: one deployer at a time; a stale lock is taken over.

A lock is stale if neither it nor the uploads changed for ``lease_s`` seconds of the board's uptime while we waited, if
it is from before the board's last boot, or if its owner was a process of this machine that has ended. Wall clocks are
not compared. Consistency does not depend on the lock: releases are uploaded under their own names, and installing
fails if the lock or the current release has changed.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bpudeploy.boards.base import Board
from bpudeploy.effects.script import Script, ScriptOutput, run_script
from bpudeploy.events import Event, Note

_POLL_S = 2.0


@dataclass(frozen=True)
class LockTiming:
    """How long to wait for another deployer (``wait_s``), and the inactivity after which to take over (``lease_s``)."""

    wait_s: float = 600.0
    lease_s: float = 60.0


DEFAULT_TIMING = LockTiming()


@dataclass(frozen=True)
class Holder:
    """The holder of a lock; times are the board's uptime in seconds."""

    text: str
    owner: str
    taken_s: float
    now_s: float

    @classmethod
    def parse(cls, output: ScriptOutput) -> Holder:
        """Parse the output of a script that did not get the lock.

        Raises:
            BoardError: the lock has an unknown format.
        """
        text, now = output.one("held"), output.one("now")
        try:
            _token, _boot, taken, owner = text.split(" ", 3)
            return cls(text, owner, float(taken), float(now.split(" ")[1]))
        except (ValueError, IndexError) as error:
            hint = f"if nobody is deploying to the board, remove {output.board.root}/lock on it"
            raise output.error(f"the lock has an unknown format: {text!r}", hint) from error

    def __str__(self) -> str:
        since = datetime.now().astimezone() - timedelta(seconds=self.now_s - self.taken_s)
        return f"{self.owner} holds the lock, last renewed at {since:%H:%M:%S}"


def owner() -> str:
    """Return the owner that our locks name: USER@HOST pid PID."""
    return f"{_machine()} pid {os.getpid()}"


def run_with_lock(
    board: Board,
    script: Script,
    arguments: Sequence[str],
    timing: LockTiming,
    emit: Callable[[Event], None],
    *,
    step: str,
) -> ScriptOutput:
    """Run ``script`` until it gets the lock; its last arguments are our name, and a lock to take over or "".

    Raises:
        BoardError: as ``run_script``, or another deployer held the lock for ``timing.wait_s``.
    """
    deadline = time.monotonic() + timing.wait_s
    reported, activity, active_s, stale = False, "", 0.0, ""
    while "held" in (output := run_script(board, script, [*arguments, owner(), stale], step=step)):
        holder = Holder.parse(output)
        latest = f"{holder.text} {output.all('life')}"
        if latest != activity or holder.now_s < active_s:
            activity, active_s = latest, holder.now_s
        stale = holder.text if holder.now_s - active_s >= timing.lease_s or _gone(holder.owner) else ""
        if time.monotonic() >= deadline:
            raise output.error(f"{holder}; waited {timing.wait_s:g} s", "wait, or ask its owner")
        if stale:
            emit(Note(step, f"{holder}, and is inactive: taking over"))
            continue
        if not reported:
            emit(Note(step, f"{holder}: waiting"))
            reported = True
        time.sleep(min(_POLL_S, timing.lease_s / 4))
    return output


def _machine() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    name = f"{user}@{socket.gethostname()}"
    return "".join(c if c.isprintable() and not c.isspace() else "_" for c in name)


def _gone(owner: str) -> bool:
    """Return whether a lock's owner was a process of this machine that has ended."""
    machine, _, pid = owner.partition(" pid ")
    if machine != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
