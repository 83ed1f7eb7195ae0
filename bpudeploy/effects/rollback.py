"""rollback: the board's previous release, verified there, becomes current again, in one round trip."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bpudeploy.boards.base import Board
from bpudeploy.effects.lock import USUAL, Patience, locked, owner
from bpudeploy.effects.script import Facts, Script, ask
from bpudeploy.events import Event

STEP = "rollback"


@dataclass(frozen=True)
class RolledBack:
    """The release that is current now; ``name`` is its recipe's, None where its manifest does not say."""

    release: str
    name: str | None


def rollback(board: Board, emit: Callable[[Event], None], *, signed: bool, patience: Patience = USUAL) -> RolledBack:
    """Make the previous release current; what was current is the previous one then, if it is intact.

    Cut anywhere, the board serves the one or the other.

    Raises:
        BoardError: there is none, it is damaged, no trusted key has signed it, or another deployer holds the board.
    """
    fixed = [str(board.root), "yes" if signed else "no", secrets.token_hex(8), owner()]

    def attempt(stale: str) -> Facts:
        return ask(board, Script.ROLLBACK, [*fixed, stale], step=STEP)

    facts = locked(board, attempt, patience, emit, step=STEP)
    return RolledBack(facts.one("current", board=board, step=STEP), _name("".join(facts.all("manifest"))))


def _name(manifest: str) -> str | None:
    try:
        return str(json.loads(manifest)["name"])
    except (ValueError, KeyError, TypeError):
        return None
