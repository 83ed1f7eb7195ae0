"""rollback: make the board's previous release current again, verified there, in one round trip."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bpudeploy.boards.base import Board
from bpudeploy.effects.lock import DEFAULT_TIMING, LockTiming, run_with_lock
from bpudeploy.effects.script import Script
from bpudeploy.events import Event

STEP = "rollback"


@dataclass(frozen=True)
class RollbackResult:
    """The release that is current now; ``name`` is the recipe's name, None if the manifest has none."""

    release: str
    name: str | None


def rollback(
    board: Board, emit: Callable[[Event], None], *, signed: bool, timing: LockTiming = DEFAULT_TIMING
) -> RollbackResult:
    """Make the previous release current, and the current one previous if it is intact.

    If interrupted anywhere, the board has one of the two as current.

    Raises:
        BoardError: there is none, it is damaged or not signed by a trusted key, or another deployer has the lock.
    """
    arguments = ["yes" if signed else "no", secrets.token_hex(8)]
    output = run_with_lock(board, Script.ROLLBACK, arguments, timing, emit, step=STEP)
    return RollbackResult(output.one("current"), _name("".join(output.all("manifest"))))


def _name(manifest: str) -> str | None:
    try:
        return str(json.loads(manifest)["name"])
    except (ValueError, KeyError, TypeError):
        return None
