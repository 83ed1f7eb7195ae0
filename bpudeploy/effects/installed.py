"""The current and the previous release of a board, as its links name them. Read-only; nothing is verified."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bpudeploy.boards.base import Board
from bpudeploy.errors import BoardError

_SCRIPT = 'cd -- "$1" 2>/dev/null || exit 0; echo "current $(readlink current)"; echo "previous $(readlink previous)"'
_LINK = re.compile(r"^(current|previous) releases/([0-9a-f]{64})$", re.MULTILINE)
_SHORT_S = 60.0


@dataclass(frozen=True)
class InstalledReleases:
    """Digests of releases; empty if there is none."""

    current: str
    previous: str


def installed_releases(board: Board, *, step: str) -> InstalledReleases:
    """Return the digests of the board's current and previous release.

    Raises:
        BoardError: the command failed.
    """
    out = board.run(["sh", "-c", _SCRIPT, "sh", str(board.root)], timeout=_SHORT_S, step=step)
    if not out.ok:
        raise BoardError(
            f"cannot read the installed releases: {out.stderr.strip()[:200]}",
            board=board.name,
            step=step,
            hint=f"check the permissions of {board.root} on the board",
        )
    found = dict(_LINK.findall(out.stdout))
    return InstalledReleases(found.get("current", ""), found.get("previous", ""))
