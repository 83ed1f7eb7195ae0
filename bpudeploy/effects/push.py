"""push: a release arrives beside, is verified on the board, and is switched to by one rename."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board, Output
from bpudeploy.digest import Digest, digest_bytes, short
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note, Progress
from bpudeploy.release import Release

STEP = "push"
_QUICK_S = 30.0
_HASH_S = 300.0
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
    if _digests(board, board.root / "current") == wanted:
        emit(Note(STEP, f"release {short(release.digest)} is already there, intact"))
        return Pushed(False, 0, time.perf_counter() - started)
    size = release.binary.path.stat().st_size
    name = f"{release.digest}-{secrets.token_hex(4)}"
    incoming = board.root / "incoming" / name
    _do(board, ["mkdir", "-p", str(incoming), str(board.root / "releases")])
    _check_space(board, size + len(manifest))
    board.put(
        release.binary.path, incoming / BINARY, step=STEP, progress=lambda d, t: emit(Progress(STEP, d, t, "bytes"))
    )
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / MANIFEST
        local.write_bytes(manifest)
        board.put(local, incoming / MANIFEST, step=STEP)
    if _digests(board, incoming) != wanted:
        raise BoardError(
            "what arrived is not what was sent", board=board.name, step=STEP, hint="push again; is its disk failing?"
        )
    _do(board, ["sync"])
    _activate(board, incoming, board.root / "releases" / name)
    emit(Note(STEP, f"release {short(release.digest)} is current, its sha256 verified on the board"))
    _tidy(board)
    return Pushed(True, size + len(manifest), time.perf_counter() - started)


def _activate(board: Board, incoming: PurePosixPath, final: PurePosixPath) -> None:
    """Give the release its name, then switch the links: first ``previous``, then ``current``."""
    before = board.run(["readlink", str(board.root / "current")], timeout=_QUICK_S, step=STEP)
    _do(board, ["mv", str(incoming), str(final)])
    if before.ok:
        _link(board, before.stdout.strip(), board.root / "previous")
    _link(board, f"releases/{final.name}", board.root / "current")
    _do(board, ["sync"])


def _link(board: Board, to: str, link: PurePosixPath) -> None:
    beside = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    _do(board, ["ln", "-s", to, str(beside)])
    _do(board, ["mv", "-T", str(beside), str(link)])  # rename(2): there is no moment without a link


def _digests(board: Board, folder: PurePosixPath) -> dict[str, Digest]:
    """Return name -> sha256 of a release folder's two files, as far as they exist."""
    paths = [str(folder / name) for name in (MANIFEST, BINARY)]
    out = board.run(["sha256sum", *paths], timeout=_HASH_S, step=STEP)
    if out.status == 127:
        raise BoardError("it has no sha256sum", board=board.name, step=STEP, hint="install coreutils or busybox there")
    found = {}
    for line in out.stdout.splitlines():
        digest, _, path = line.partition("  ")
        found[PurePosixPath(path).name] = Digest(digest.removeprefix("\\"))
    return found


def _check_space(board: Board, needed: int) -> None:
    out = _do(board, ["df", "-Pk", str(board.root)])
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
    listed = _do(board, ["ls", "-1t", str(board.root / "releases")]).stdout.split()
    for name in listed[_KEEP:]:
        if name not in links:
            board.run(["rm", "-rf", str(board.root / "releases" / name)], timeout=_QUICK_S, step=STEP)


def _do(board: Board, argv: Sequence[str]) -> Output:
    out = board.run(argv, timeout=_QUICK_S, step=STEP)
    if not out.ok:
        said = out.stderr.strip() or f"exit status {out.status}"
        raise BoardError(
            f"`{argv[0]}` failed: {said}",
            board=board.name,
            step=STEP,
            hint=f"check the space and permissions of {board.root} there",
        )
    return out
