"""What a board serves: its current and its previous release, by their links; nothing is verified, nothing changed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bpudeploy.boards.base import Board
from bpudeploy.errors import BoardError

_SCRIPT = 'cd -- "$1" 2>/dev/null || exit 0; echo "current $(readlink current)"; echo "previous $(readlink previous)"'
_LINK = re.compile(r"^(current|previous) releases/([0-9a-f]{64})$", re.MULTILINE)
_SHORT_S = 60.0


@dataclass(frozen=True)
class Served:
    """Digests of releases; empty where there is none."""

    current: str
    previous: str


def served(board: Board, *, step: str) -> Served:
    """Ask a board what it serves.

    Raises:
        BoardError: its shell does not answer.
    """
    out = board.run(["sh", "-c", _SCRIPT, "sh", str(board.root)], timeout=_SHORT_S, step=step)
    if not out.ok:
        raise BoardError(
            f"it cannot say what it serves: {out.stderr.strip()[:200]}",
            board=board.name,
            step=step,
            hint=f"check the permissions of {board.root} there",
        )
    found = dict(_LINK.findall(out.stdout))
    return Served(found.get("current", ""), found.get("previous", ""))
