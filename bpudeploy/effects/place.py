"""place: a file on a board under its digest, sent once, and only those blocks of it that are not there already."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import Digest
from bpudeploy.effects.remote import digests, do
from bpudeploy.events import Event, Progress
from bpudeploy.transfer.send import send

_SHORT_S = 60.0
_KEEP_DAYS = 30
_NAME = re.compile(r"[0-9a-f]{64}\.[a-z]+")


def place(
    board: Board, local: Path, digest: Digest, kind: str, emit: Callable[[Event], None], *, step: str
) -> PurePosixPath:
    """Return where ``local`` is on the board, in the folder ``blobs`` under its root; sent if it is not there, intact.

    What is there is verified by sha256 before it is trusted. Blocks of files of the same ``kind`` are not sent again.
    Files that nothing asked for in 30 days are removed; the next who needs one sends it.

    Args:
        kind: the file's suffix, in lower-case letters: what it may have blocks in common with.

    Raises:
        BoardError: naming the step. What is there under the name of a digest is right or is not used.
    """
    folder = board.root / "blobs"
    remote = folder / f"{digest}.{kind}"
    if digest in digests(board, [remote], step=step).values():
        do(board, ["touch", str(remote)], step=step, timeout=_SHORT_S)
        return remote
    do(board, ["mkdir", "-p", str(folder)], step=step, timeout=_SHORT_S)
    old = ["find", str(folder), "-type", "f", "-mtime", f"+{_KEEP_DAYS}", "-exec", "rm", "-f", "{}", "+"]
    do(board, old, step=step, timeout=_SHORT_S)
    beside = folder / f".{digest}.{kind}"  # a name that stays: what has arrived of it is not sent again
    send(
        board,
        local,
        beside,
        bases=_alike(board, folder, kind, step),
        step=step,
        progress=lambda done, total: emit(Progress(step, done, total, "bytes")),
    )
    do(board, ["mv", "-T", str(beside), str(remote)], step=step, timeout=_SHORT_S)
    return remote


def _alike(board: Board, folder: PurePosixPath, kind: str, step: str) -> list[PurePosixPath]:
    """Return the files of this kind that are there, the newest first."""
    out = do(board, ["ls", "-t", str(folder)], step=step, timeout=_SHORT_S)
    return [folder / name for name in out.stdout.split("\n") if _NAME.fullmatch(name) and name.endswith(f".{kind}")]
