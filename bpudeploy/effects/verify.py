"""self-check: after each activation the board answers golden images, and goes back if it is not the right network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import short
from bpudeploy.effects.agent import agent_on
from bpudeploy.effects.lines import Logits
from bpudeploy.effects.place import place
from bpudeploy.effects.push import BINARY, Policy
from bpudeploy.effects.rollback import rollback
from bpudeploy.errors import BoardError, ConnectionLost
from bpudeploy.events import Event, Note
from bpudeploy.release import Release
from bpudeploy.results.golden import SelfCheck, self_check
from bpudeploy.stage import Artifact

STEP = "self-check"
_FRAME_S = 300.0


@dataclass(frozen=True)
class Golden:
    """Images, and what the release says to them on the host: logits (images, classes)."""

    images: Artifact
    logits: tuple[tuple[float, ...], ...]


def verify(board: Board, release: Release, golden: Golden, emit: Callable[[Event], None]) -> SelfCheck:
    """Have the board run its copy of ``release`` on the golden images and hold the answers against the host's.

    Raises:
        BoardError: its runtime cannot load or run it.
    """
    images = place(board, golden.images.path, golden.images.digest, "safetensors", emit, step=STEP)
    with agent_on(board, emit, step=STEP) as agent:
        manifest = release.manifest
        model = installed(board, release)
        loaded = agent.load("release", model, manifest.binary, manifest.runtime, images, within=_FRAME_S)
        asked = agent.ask("classify", within=_FRAME_S, first=0, last=loaded.images, top=1, logits=True)
        got = [row for line in asked if isinstance(line, Logits) for row in line.values]
    try:
        return self_check(golden.logits, got)
    except ValueError as error:
        raise BoardError(str(error), board=board.name, step=STEP, hint="is the binary that of this recipe?") from error


def verify_or_go_back(
    board: Board, release: Release, golden: Golden, policy: Policy, changed: bool, emit: Callable[[Event], None]
) -> SelfCheck:
    """``verify``, and where the release was activated just now and is wrong, make the one before it current again.

    Raises:
        BoardError: the board does not run the release as the host does; it says what the board serves now.
    """
    try:
        checked = verify(board, release, golden, emit)
        if checked.holds:
            emit(Note(STEP, _said(checked)))
            return checked
        why = _said(checked)
        cause = None
    except ConnectionLost:
        raise
    except BoardError as error:
        if not changed:
            raise
        why, cause = error.message, error
    now = _back(board, policy, emit) if changed else "it serves that release"
    raise BoardError(
        f"release {short(release.digest)} does not run there as on this machine: {why}; {now}",
        board=board.name,
        step=STEP,
        hint="is its runtime the one of the compiler that built it? `bpudeploy boards facts` says which it has",
    ) from cause


def installed(board: Board, release: Release) -> PurePosixPath:
    """Return where a release's binary is on a board that has it."""
    return board.root / "releases" / release.digest / BINARY


def _said(checked: SelfCheck) -> str:
    return (
        f"{checked.same} of {checked.images} golden images have the host's best class, the logits deviate by "
        f"{checked.deviation:.2g} of their spread (limit {checked.limit:g})"
    )


def _back(board: Board, policy: Policy, emit: Callable[[Event], None]) -> str:
    try:
        before = rollback(board, emit, signed=policy.key is not None, patience=policy.patience)
    except BoardError as error:
        return f"it serves that release, for it could not go back: {error.message}"
    return f"it serves {short(before.release)} again"
