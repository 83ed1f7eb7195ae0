"""Small remote commands: run one that must succeed, test for a file, compute digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.digest import Digest
from bpudeploy.errors import BoardError

_HASH_S = 300.0
_SHORT_S = 60.0


def run_checked(board: Board, argv: Sequence[str], *, step: str) -> CommandOutput[str]:
    """Run a command and return its output.

    Raises:
        BoardError: its status is not zero.
    """
    out = board.run(argv, timeout=_SHORT_S, step=step)
    if not out.ok:
        reason = out.stderr.strip() or f"exit status {out.status}"
        hint = f"check the space and permissions of {board.root} on the board"
        raise BoardError(f"`{argv[0]}` failed: {reason}", board=board.name, step=step, hint=hint)
    return out


def is_file(board: Board, path: PurePosixPath, *, step: str) -> bool:
    """Return whether the board has a file at ``path``."""
    return board.run(["test", "-f", str(path)], timeout=_SHORT_S, step=step).ok


def remote_digests(board: Board, paths: Sequence[PurePosixPath], *, step: str) -> dict[str, Digest]:
    """Return the sha256 of each existing path, by file name; computed on the board.

    Raises:
        BoardError: the board has no sha256sum.
    """
    out = board.run(["sha256sum", *map(str, paths)], timeout=_HASH_S, step=step)
    if out.status == 127:
        raise BoardError("it has no sha256sum", board=board.name, step=step, hint="install coreutils or busybox there")
    lines = (line.partition("  ") for line in out.stdout.splitlines())
    return {PurePosixPath(path).name: Digest(digest.removeprefix("\\")) for digest, _, path in lines}
