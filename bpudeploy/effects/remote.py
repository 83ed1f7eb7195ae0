"""What is asked of a board in one word: run a command that must succeed, is there such a file, what files hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.digest import Digest
from bpudeploy.errors import BoardError

_HASH_S = 300.0
_SHORT_S = 60.0


def do(board: Board, argv: Sequence[str], *, step: str, timeout: float) -> CommandOutput[str]:
    """Run a command and return what it said.

    Raises:
        BoardError: its status is not zero.
    """
    out = board.run(argv, timeout=timeout, step=step)
    if not out.ok:
        said = out.stderr.strip() or f"exit status {out.status}"
        raise BoardError(
            f"`{argv[0]}` failed: {said}",
            board=board.name,
            step=step,
            hint=f"check the space and permissions of {board.root} there",
        )
    return out


def is_file(board: Board, path: PurePosixPath, *, step: str) -> bool:
    """Tell whether there is such a file on the board, whatever it holds."""
    return board.run(["test", "-f", str(path)], timeout=_SHORT_S, step=step).ok


def digests(board: Board, paths: Sequence[PurePosixPath], *, step: str) -> dict[str, Digest]:
    """Return file name to sha256, computed on the board, of those ``paths`` that exist.

    Raises:
        BoardError: the board cannot compute one.
    """
    out = board.run(["sha256sum", *map(str, paths)], timeout=_HASH_S, step=step)
    if out.status == 127:
        raise BoardError("it has no sha256sum", board=board.name, step=step, hint="install coreutils or busybox there")
    lines = (line.partition("  ") for line in out.stdout.splitlines())
    return {PurePosixPath(path).name: Digest(digest.removeprefix("\\")) for digest, _, path in lines}
