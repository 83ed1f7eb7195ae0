"""Files on a board: uploaded once under their digests, sending only the blocks that the board lacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.digest import Digest
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Progress
from bpudeploy.transfer.send import send

_HASH_S = 300.0
_SHORT_S = 60.0
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
    if _has_digest(board, remote, digest, step):
        _run_checked(board, ["touch", str(remote)], step)
        return remote
    _run_checked(board, ["mkdir", "-p", str(folder)], step)
    old = ["find", str(folder), "-type", "f", "-mtime", f"+{_KEEP_DAYS}", "-exec", "rm", "-f", "{}", "+"]
    _run_checked(board, old, step)
    partial = folder / f".{digest}.{kind}"  # a stable name, so that an interrupted upload is resumed
    send(
        board,
        local,
        partial,
        bases=_blobs_of(board, folder, kind, step),
        step=step,
        progress=lambda done, total: emit(Progress(step, done, total, "bytes")),
    )
    _run_checked(board, ["mv", "-T", str(partial), str(remote)], step)
    return remote


def _blobs_of(board: Board, folder: PurePosixPath, kind: str, step: str) -> list[PurePosixPath]:
    """Return the board's blobs of this kind, the newest first."""
    out = _run_checked(board, ["ls", "-t", str(folder)], step)
    return [folder / name for name in out.stdout.split("\n") if _NAME.fullmatch(name) and name.endswith(f".{kind}")]


def is_file(board: Board, path: PurePosixPath, *, step: str) -> bool:
    """Return whether the board has a file at ``path``."""
    return board.run(["test", "-f", str(path)], timeout=_SHORT_S, step=step).ok


def _has_digest(board: Board, path: PurePosixPath, digest: Digest, step: str) -> bool:
    """Return whether there is a file at ``path`` with this sha256, computed on the board."""
    out = board.run(["sha256sum", str(path)], timeout=_HASH_S, step=step)
    if out.status == 127:
        raise BoardError("it has no sha256sum", board=board.name, step=step, hint="install coreutils or busybox there")
    return f"{digest}  " in out.stdout


def _run_checked(board: Board, argv: Sequence[str], step: str) -> CommandOutput[str]:
    """Run a command that must succeed, and return its output."""
    out = board.run(argv, timeout=_SHORT_S, step=step)
    if not out.ok:
        reason = out.stderr.strip() or f"exit status {out.status}"
        hint = f"check the space and permissions of {board.root} on the board"
        raise BoardError(f"`{argv[0]}` failed: {reason}", board=board.name, step=step, hint=hint)
    return out
