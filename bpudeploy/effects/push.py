"""push: a release arrives beside, is verified on the board, and is switched to by one rename."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import Digest, digest_bytes, short
from bpudeploy.effects.remote import digests, do
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note, Progress
from bpudeploy.release import Release

STEP = "push"
_QUICK_S = 30.0
_KEEP = 3
BINARY, MANIFEST = "model.bin", "manifest.json"


@dataclass(frozen=True)
class Pushed:
    """What push did: nothing (``changed`` False) or a new release, with the bytes that it sent."""

    changed: bool
    bytes_sent: int
    seconds: float


def push(board: Board, release: Release, emit: Callable[[Event], None]) -> Pushed:
    """Make ``release`` the board's current one; a board that has it, intact, is left alone.

    Layout under the board's root: ``releases/DIGEST-xxxx/{model.bin,manifest.json}``, and the links
    ``current`` and ``previous``. A release folder is never changed once it has its name, and ``current``
    moves by rename(2): cut anywhere, the board runs the old release or the new one.

    Raises:
        BoardError: naming the step; the old release still serves.
    """
    started = time.perf_counter()
    manifest = release.manifest.to_json().encode()
    wanted = {MANIFEST: digest_bytes(manifest), BINARY: release.manifest.binary}
    if _installed(board, board.root / "current") == wanted:
        emit(Note(STEP, f"release {short(release.digest)} is already there, intact"))
        return Pushed(False, 0, time.perf_counter() - started)
    size = release.binary.path.stat().st_size
    name = f"{release.digest}-{secrets.token_hex(4)}"
    incoming = board.root / "incoming" / name
    do(board, ["mkdir", "-p", str(incoming), str(board.root / "releases")], step=STEP, timeout=_QUICK_S)
    _check_space(board, size + len(manifest))
    board.put(
        release.binary.path, incoming / BINARY, step=STEP, progress=lambda d, t: emit(Progress(STEP, d, t, "bytes"))
    )
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / MANIFEST
        local.write_bytes(manifest)
        board.put(local, incoming / MANIFEST, step=STEP)
    if _installed(board, incoming) != wanted:
        raise BoardError(
            "what arrived is not what was sent", board=board.name, step=STEP, hint="push again; is its disk failing?"
        )
    do(board, ["sync"], step=STEP, timeout=_QUICK_S)
    _activate(board, incoming, board.root / "releases" / name)
    emit(Note(STEP, f"release {short(release.digest)} is current, its sha256 verified on the board"))
    _tidy(board)
    return Pushed(True, size + len(manifest), time.perf_counter() - started)


def _activate(board: Board, incoming: PurePosixPath, final: PurePosixPath) -> None:
    """Give the release its name, then switch the links: first ``previous``, then ``current``."""
    before = board.run(["readlink", str(board.root / "current")], timeout=_QUICK_S, step=STEP)
    do(board, ["mv", str(incoming), str(final)], step=STEP, timeout=_QUICK_S)
    if before.ok:
        _link(board, before.stdout.strip(), board.root / "previous")
    _link(board, f"releases/{final.name}", board.root / "current")
    do(board, ["sync"], step=STEP, timeout=_QUICK_S)


def _link(board: Board, to: str, link: PurePosixPath) -> None:
    beside = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    do(board, ["ln", "-s", to, str(beside)], step=STEP, timeout=_QUICK_S)
    do(
        board, ["mv", "-T", str(beside), str(link)], step=STEP, timeout=_QUICK_S
    )  # rename(2): there is no moment without a link


def _installed(board: Board, folder: PurePosixPath) -> dict[str, Digest]:
    """Return name to sha256 of a release folder's two files, as far as they exist."""
    return digests(board, [folder / name for name in (MANIFEST, BINARY)], step=STEP)


def _check_space(board: Board, needed: int) -> None:
    out = do(board, ["df", "-Pk", str(board.root)], step=STEP, timeout=_QUICK_S)
    fields = out.stdout.splitlines()[-1].split()
    try:
        free = int(fields[3]) * 1024
    except (IndexError, ValueError) as error:
        raise BoardError(f"df says {out.stdout!r}", board=board.name, step=STEP, hint="this is a bug") from error
    if free < needed:
        raise BoardError(
            f"{needed / 1e6:.0f} MB are needed under {board.root}, {free / 1e6:.0f} MB are free",
            board=board.name,
            step=STEP,
            hint="free some space there",
        )


def _tidy(board: Board) -> None:
    """Remove releases beyond the newest few, and uploads that were abandoned a day ago or more."""
    incoming = str(board.root / "incoming")
    find = ["find", incoming, "-mindepth", "1", "-maxdepth", "1", "-mmin", "+1440", "-exec", "rm", "-rf", "{}", "+"]
    board.run(find, timeout=_QUICK_S, step=STEP)
    links = [
        PurePosixPath(board.run(["readlink", str(board.root / n)], timeout=_QUICK_S, step=STEP).stdout.strip()).name
        for n in ("current", "previous")
    ]
    listed = do(board, ["ls", "-1t", str(board.root / "releases")], step=STEP, timeout=_QUICK_S).stdout.split()
    for name in listed[_KEEP:]:
        if name not in links:
            board.run(["rm", "-rf", str(board.root / "releases" / name)], timeout=_QUICK_S, step=STEP)
