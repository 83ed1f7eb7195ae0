"""push: a release arrives beside, is verified on the board, and is switched to by one rename."""

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
from bpudeploy.effects.lock import USUAL, Patience, locked, owner
from bpudeploy.effects.script import Facts, Script, ask
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note, Progress
from bpudeploy.release import Release
from bpudeploy.signing import SigningKey
from bpudeploy.transfer.send import send

STEP = "push"
BINARY, MANIFEST = "model.bin", "manifest.json"
_SMALL = 100_000
"""Bytes on the board for what comes with a binary: statement, signature, manifest, folders."""


@dataclass(frozen=True)
class Policy:
    """What a push may do. ``key`` None: nothing is signed, and the board verifies digests only."""

    key: SigningKey | None
    keep: int = 3
    allow_downgrade: bool = False
    patience: Patience = USUAL


@dataclass(frozen=True)
class Pushed:
    """What push did: nothing (``changed`` False) or a new release, with the bytes that it sent."""

    changed: bool
    bytes_sent: int
    seconds: float


def push(board: Board, release: Release, policy: Policy, emit: Callable[[Event], None]) -> Pushed:
    """Make ``release`` the board's current one; a board that has it, intact, is left alone.

    Layout under the board's root: ``releases/DIGEST/{model.bin,manifest.json,statement,statement.sig}``, the links
    ``current`` and ``previous``, and ``lock``. A release folder never changes once it has its name (a damaged one is
    healed, file by file), everything in it has reached the disk before a link names it, and links move by rename(2):
    cut anywhere, the board runs the old release or the new one. See ``scripts/`` for the board's half.

    Raises:
        BoardError: naming the step; the old release still serves.
    """
    started = time.perf_counter()
    token = secrets.token_hex(8)
    signed = "yes" if policy.key else "no"
    begin = [str(board.root), release.digest, release.manifest.binary, signed, token, owner()]

    def attempt(stale: str) -> Facts:
        return ask(board, Script.BEGIN, [*begin, stale], step=STEP)

    try:
        facts = locked(board, attempt, policy.patience, emit, step=STEP)
        if "current" in facts.all("state"):
            emit(Note(STEP, f"release {short(release.digest)} is already there, intact{_vouched(policy)}"))
            return Pushed(False, 0, time.perf_counter() - started)
        if not policy.allow_downgrade:
            _refuse_downgrade(board, release, facts)
        sent = _bring(board, release, facts, emit)
        sent += _install(board, release, facts, policy, token, emit)
    except BaseException:
        with suppress(BoardError):  # the first error is the one to tell; a lock that stays expires
            ask(board, Script.ABANDON, [str(board.root), token], step=STEP)
        raise
    emit(Note(STEP, f"release {short(release.digest)} is current, its sha256 verified on the board{_vouched(policy)}"))
    return Pushed(True, sent, time.perf_counter() - started)


def _vouched(policy: Policy) -> str:
    if policy.key is None:
        return "; NOT signed: the target says board.signed: false"
    return ", and its signature by a key that it trusts"


def _refuse_downgrade(board: Board, release: Release, facts: Facts) -> None:
    """Refuse what was built before the board's current release of the same recipe and target.

    Of another recipe it is another thing, neither older nor newer. Times are those of the machines that compiled.

    Raises:
        BoardError: it is older.
    """
    there = facts.all("built")
    if not there or not there[0].isdigit() or facts.all("line") != (release.line,):
        return
    if release.built < int(there[0]):
        raise BoardError(
            f"this release was built at {_when(release.built)}, the one that it has at {_when(int(there[0]))}",
            board=board.name,
            step=STEP,
            hint="to go back all the same: `bpudeploy rollback`, or --allow-downgrade",
        )


def _when(built: int) -> str:
    return f"{datetime.fromtimestamp(built, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _bring(board: Board, release: Release, facts: Facts, emit: Callable[[Event], None]) -> int:
    """Bring the binary beside, unless the board has it already; returns the bytes that were sent."""
    size = release.binary.path.stat().st_size
    partial, free = (facts.number(name, board=board, step=STEP) for name in ("partial", "free"))
    needed = max(0, size - partial) + _SMALL
    if free * 1024 < needed:
        raise BoardError(
            f"{needed / 1e6:.1f} MB are needed under {board.root}, {free * 1024 / 1e6:.1f} MB are free",
            board=board.name,
            step=STEP,
            hint="free some space there",
        )
    if "have" in facts:
        return 0
    bases = [board.root / PurePosixPath(base) for base in facts.all("base")]
    if bases and find_spec("numpy") is None:
        emit(Note(STEP, "sending the whole binary: sending only what changed needs pip install 'bpudeploy[measure]'"))
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
    board: Board, release: Release, facts: Facts, policy: Policy, token: str, emit: Callable[[Event], None]
) -> int:
    """Verify, write through, switch, tidy and unlock: one round trip; returns the bytes that were sent."""
    before = "".join(facts.all("before"))
    have = facts.all("have")
    manifest = release.manifest.to_json()
    signature = policy.key.sign(release.statement) if policy.key else ""
    arguments = [str(board.root), release.digest, "yes" if policy.key else "no", token, before, str(policy.keep)]
    arguments += [release.statement, manifest, signature, have[0] if have else ""]
    if "untidy" in ask(board, Script.INSTALL, arguments, step=STEP):
        emit(Note(STEP, "older releases or uploads could not be removed there; the next push tries again"))
    return sum(map(len, (release.statement, manifest, signature)))
