"""push: upload a release, verify it on the board, and make it current by one rename."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.digest import short
from bpudeploy.effects.lock import DEFAULT_TIMING, LockTiming, run_with_lock
from bpudeploy.effects.script import Script, ScriptOutput, run_script
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note, Progress
from bpudeploy.release import Release
from bpudeploy.signing import SigningKey
from bpudeploy.transfer.send import send

STEP = "push"
BINARY = "model.bin"
_METADATA_BYTES = 100_000
"""Space on the board for what comes with a binary: statement, signature, manifest, folders."""


@dataclass(frozen=True)
class PushPolicy:
    """Options of a push. If ``key`` is None, nothing is signed and the board verifies digests only."""

    key: SigningKey | None
    keep: int = 3
    allow_downgrade: bool = False
    timing: LockTiming = DEFAULT_TIMING


@dataclass(frozen=True)
class PushResult:
    """Result of a push; ``changed`` is False if the release was already current."""

    changed: bool
    bytes_sent: int
    seconds: float


def push(board: Board, release: Release, policy: PushPolicy, emit: Callable[[Event], None]) -> PushResult:
    """Make ``release`` the board's current one; if it is already current and intact, do nothing.

    Layout under the board's root: ``releases/DIGEST/{model.bin,manifest.json,statement,statement.sig}``, the links
    ``current`` and ``previous``, and ``lock``. A named release folder never changes (a damaged one is repaired, file by
    file), it is synced to disk before a link names it, and links are replaced by rename(2): if interrupted anywhere,
    the board runs the old release or the new one. See ``scripts/`` for the board's side.

    Raises:
        BoardError: with the name of the step; the old release is still current.
    """
    started = time.perf_counter()
    token = secrets.token_hex(8)
    signed = "yes" if policy.key else "no"
    begin = [release.digest, release.manifest.binary, signed, token]
    try:
        output = run_with_lock(board, Script.BEGIN, begin, policy.timing, emit, step=STEP)
        if "current" in output.all("state"):
            emit(Note(STEP, f"release {short(release.digest)} is already current and intact{_signature(policy)}"))
            return PushResult(False, 0, time.perf_counter() - started)
        if not policy.allow_downgrade:
            _refuse_downgrade(release, output)
        sent = _upload(board, release, output, emit)
        sent += _install(board, release, output, policy, token, emit)
    except BaseException:
        with suppress(BoardError):  # report the first error; a lock that is left expires
            run_script(board, Script.ABANDON, [token], step=STEP)
        raise
    emit(
        Note(STEP, f"release {short(release.digest)} is current, its sha256 verified on the board{_signature(policy)}")
    )
    return PushResult(True, sent, time.perf_counter() - started)


def _signature(policy: PushPolicy) -> str:
    if policy.key is None:
        return "; NOT signed: the target says board.signed: false"
    return "; signed by a key that the board trusts"


def _refuse_downgrade(release: Release, output: ScriptOutput) -> None:
    """Refuse a build older than the board's current release of the same recipe and target.

    Build times are by the clocks of the compiling machines.

    Raises:
        BoardError: it is older.
    """
    current = output.all("built")
    if not current or not current[0].isdigit() or output.all("line") != (release.line,):
        return
    if release.built < int(current[0]):
        raise output.error(
            f"this release was built at {_when(release.built)}, the board's current one at {_when(int(current[0]))}",
            "to downgrade, use `bpudeploy rollback` or --allow-downgrade",
        )


def _when(built: int) -> str:
    return f"{datetime.fromtimestamp(built, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _upload(board: Board, release: Release, output: ScriptOutput, emit: Callable[[Event], None]) -> int:
    """Upload the binary, unless the board has it already; return the bytes sent."""
    size = release.binary.path.stat().st_size
    partial, free = output.number("partial"), output.number("free")
    needed = max(0, size - partial) + _METADATA_BYTES
    if free * 1024 < needed:
        raise output.error(
            f"{needed / 1e6:.1f} MB are needed under {board.root}, {free * 1024 / 1e6:.1f} MB are free",
            "free some space on the board",
        )
    if "have" in output:
        return 0
    bases = [board.root / PurePosixPath(base) for base in output.all("base")]
    if bases and find_spec("numpy") is None:
        emit(Note(STEP, "sending the whole binary; to send only changed blocks: pip install 'bpudeploy[measure]'"))
        bases = []
    return send(
        board,
        release.binary.path,
        board.root / "incoming" / release.digest / BINARY,
        bases=bases,
        step=STEP,
        progress=lambda done, total: emit(Progress(STEP, done, total, "bytes")),
    ).wire_bytes


def _install(
    board: Board, release: Release, output: ScriptOutput, policy: PushPolicy, token: str, emit: Callable[[Event], None]
) -> int:
    """Verify, sync, switch, clean up and unlock in one round trip; return the bytes sent."""
    before = "".join(output.all("before"))
    have = output.all("have")
    manifest = release.manifest.to_json()
    signature = policy.key.sign(release.statement) if policy.key else ""
    arguments = [release.digest, "yes" if policy.key else "no", token, before, str(policy.keep)]
    arguments += [release.statement, manifest, signature, have[0] if have else ""]
    if "untidy" in run_script(board, Script.INSTALL, arguments, step=STEP):
        emit(Note(STEP, "older releases or uploads could not be removed from the board; the next push tries again"))
    return sum(map(len, (release.statement, manifest, signature)))
