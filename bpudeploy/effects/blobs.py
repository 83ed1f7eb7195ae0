"""Files on a board under their digests: uploaded once, sending only the blocks that the board lacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import Digest
from bpudeploy.effects.remote import remote_digests, run_checked
from bpudeploy.events import Event, Progress
from bpudeploy.transfer.send import send

_KEEP_DAYS = 30
_NAME = re.compile(r"[0-9a-f]{64}\.[a-z]+")


def upload_blob(
    board: Board, local: Path, digest: Digest, kind: str, emit: Callable[[Event], None], *, step: str
) -> PurePosixPath:
    """Upload ``local`` to the folder ``blobs`` under the board's root, unless it is there intact; return its path.

    An existing file is verified by sha256. Blocks of other files of the same ``kind`` are copied on the board.
    Files that were not used for 30 days are removed.

    Args:
        kind: the file's suffix, in lower-case letters.

    Raises:
        BoardError: with the name of the step.
    """
    folder = board.root / "blobs"
    remote = folder / f"{digest}.{kind}"
    if digest in remote_digests(board, [remote], step=step).values():
        run_checked(board, ["touch", str(remote)], step=step)
        return remote
    run_checked(board, ["mkdir", "-p", str(folder)], step=step)
    old = ["find", str(folder), "-type", "f", "-mtime", f"+{_KEEP_DAYS}", "-exec", "rm", "-f", "{}", "+"]
    run_checked(board, old, step=step)
    partial = folder / f".{digest}.{kind}"  # a stable name, so that an interrupted upload is resumed
    send(
        board,
        local,
        partial,
        bases=_blobs_of(board, folder, kind, step),
        step=step,
        progress=lambda done, total: emit(Progress(step, done, total, "bytes")),
    )
    run_checked(board, ["mv", "-T", str(partial), str(remote)], step=step)
    return remote


def _blobs_of(board: Board, folder: PurePosixPath, kind: str, step: str) -> list[PurePosixPath]:
    """Return the board's blobs of this kind, the newest first."""
    out = run_checked(board, ["ls", "-t", str(folder)], step=step)
    return [folder / name for name in out.stdout.split("\n") if _NAME.fullmatch(name) and name.endswith(f".{kind}")]
