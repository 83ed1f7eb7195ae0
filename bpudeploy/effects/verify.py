"""self-check: compare the board's logits for golden images with the host's, and roll back a wrong release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import short
from bpudeploy.effects.agent import agent_on
from bpudeploy.effects.blobs import upload_blob
from bpudeploy.effects.messages import Logits
from bpudeploy.effects.push import BINARY, PushPolicy
from bpudeploy.effects.rollback import rollback
from bpudeploy.errors import BoardError, ConnectionLost
from bpudeploy.events import Event, Note
from bpudeploy.release import Release
from bpudeploy.results.golden import SelfCheck, self_check
from bpudeploy.stage import Artifact

STEP = "self-check"
_FRAME_S = 300.0


@dataclass(frozen=True)
class GoldenSet:
    """Images, and the release's logits for them on the host: (images, classes)."""

    images: Artifact
    logits: tuple[tuple[float, ...], ...]


def verify(
    board: Board,
    release: Release,
    golden: GoldenSet,
    emit: Callable[[Event], None],
    driver: Path | None = None,
) -> SelfCheck:
    """Run the board's copy of ``release`` on the golden images and compare the logits with the host's.

    Args:
        driver: the file of the runtime's driver, if the agent has none.

    Raises:
        BoardError: the board's runtime cannot load or run it.
    """
    manifest = release.manifest
    images = upload_blob(board, golden.images.path, golden.images.digest, "safetensors", emit, step=STEP)
    with agent_on(board, emit, step=STEP, drivers={manifest.runtime: driver} if driver else {}) as agent:
        model = installed_binary(board, release)
        loaded = agent.load("release", model, manifest.binary, manifest.runtime, images, within=_FRAME_S)
        answers = agent.stream("classify", within=_FRAME_S, first=0, last=loaded.images, top=1, logits=True)
        got = [row for message in answers if isinstance(message, Logits) for row in message.values]
    try:
        return self_check(golden.logits, got)
    except ValueError as error:
        raise BoardError(
            str(error), board=board.name, step=STEP, hint="was the binary built from this recipe?"
        ) from error


def verify_or_roll_back(
    board: Board,
    release: Release,
    golden: GoldenSet,
    policy: PushPolicy,
    changed: bool,
    emit: Callable[[Event], None],
    driver: Path | None = None,
) -> SelfCheck:
    """``verify``; if the check fails and ``changed`` is set, roll back to the previous release.

    Raises:
        BoardError: the check failed; the message names the release that is current now.
    """
    try:
        checked = verify(board, release, golden, emit, driver)
        if checked.holds:
            emit(Note(STEP, _summary(checked)))
            return checked
        why, cause = _summary(checked), None
    except ConnectionLost:
        raise
    except BoardError as error:
        if not changed:
            raise
        why, cause = error.message, error
    now = _roll_back(board, policy, emit) if changed else "it serves that release"
    raise BoardError(
        f"release {short(release.digest)} does not run there as on this machine: {why}; {now}",
        board=board.name,
        step=STEP,
        hint="does the board's runtime match the compiler version? `bpudeploy boards facts` shows the runtime",
    ) from cause


def installed_binary(board: Board, release: Release) -> PurePosixPath:
    """Return the path of an installed release's binary on the board."""
    return board.root / "releases" / release.digest / BINARY


def _summary(checked: SelfCheck) -> str:
    return (
        f"top-1 equals the host's on {checked.same} of {checked.images} golden images, the logits deviate by "
        f"{checked.deviation:.2g} of their spread (limit {checked.limit:g})"
    )


def _roll_back(board: Board, policy: PushPolicy, emit: Callable[[Event], None]) -> str:
    try:
        before = rollback(board, emit, signed=policy.key is not None, timing=policy.timing)
    except BoardError as error:
        return f"it still serves that release, because the rollback failed: {error.message}"
    return f"it serves {short(before.release)} again"
