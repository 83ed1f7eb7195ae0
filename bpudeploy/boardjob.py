"""One job on one board: connect, verify its identity, respect reservations, and run steps with events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from bpudeploy.boards.address import Address
from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.boards.facts import read_facts
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.effects import bench, verify
from bpudeploy.effects.connection_loss import open_diagnosed
from bpudeploy.effects.push import STEP as PUSH
from bpudeploy.effects.push import PushPolicy, PushResult, push
from bpudeploy.effects.reserve import refuse_reserved, release, reserve
from bpudeploy.effects.rollback import RollbackResult, rollback
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, StepFinished, StepStarted
from bpudeploy.measure import Candidate, measure
from bpudeploy.release import Release
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import BoardSpec


@dataclass(frozen=True)
class JobReservation:
    """A reservation for the duration of one job."""

    seconds: float
    why: str
    job: str
    """One word that separates it from the user's own reservations."""


@dataclass(frozen=True)
class BoardJob:
    """An open board and the listener for its events."""

    board: Board
    emit: Callable[[Event], None]

    def push(self, release: Release, policy: PushPolicy) -> PushResult:
        """Make ``release`` current; see ``effects.push``."""
        self.emit(StepStarted(PUSH))
        pushed = push(self.board, release, policy, self.emit)
        self.emit(StepFinished(PUSH, "miss" if pushed.changed else "hit", (release.digest,), pushed.seconds))
        return pushed

    def check(self, candidate: Candidate) -> SelfCheck:
        """Run the installed release on the golden images; see ``effects.verify``."""
        return verify.verify(self.board, candidate.release, candidate.golden, self.emit, candidate.driver)

    def check_or_roll_back(self, candidate: Candidate, policy: PushPolicy, pushed: PushResult) -> SelfCheck:
        """``check``; if it fails and the push changed the release, roll back to the previous one.

        Raises:
            BoardError: the check failed; the message names the release that is current now.
        """
        self.emit(StepStarted(verify.STEP))
        before = time.perf_counter()
        checked = verify.verify_or_roll_back(
            self.board, candidate.release, candidate.golden, policy, pushed.changed, self.emit, candidate.driver
        )
        self.emit(StepFinished(verify.STEP, "miss", (), time.perf_counter() - before))
        return checked

    def measure(self, candidates: Sequence[Candidate], method: BenchmarkSpec) -> tuple[Measurement, ...]:
        """Measure candidates with the same evaluation set, interleaved; see ``measure.measure``."""
        self.emit(StepStarted(bench.STEP))
        before = time.perf_counter()
        measured = measure(self.board, candidates, method, self.emit)
        self.emit(StepFinished(bench.STEP, "miss", (), time.perf_counter() - before, measured[0].peak_memory_mb))
        return measured

    def roll_back(self, policy: PushPolicy) -> RollbackResult:
        """Make the previous release current; see ``effects.rollback``."""
        return rollback(self.board, self.emit, signed=policy.key is not None, timing=policy.timing)


@contextmanager
def on_board(
    opener: BoardOpener,
    emit: Callable[[Event], None],
    *,
    board_id: str | None = None,
    reservation: JobReservation | None = None,
) -> Iterator[BoardJob]:
    """Connect to a board for one job.

    Args:
        board_id: the SoC's serial number that the board must have; None accepts any.
        reservation: reserve the board for the job; if None, only fail if somebody else has reserved it.

    Raises:
        Reserved: somebody else has reserved the board.
        ConnectionLost: the connection was lost; the message says whether the board was rebooted.
        BoardError: it cannot be reached, or another board answers at its address.
    """
    with open_diagnosed(opener) as board:
        if board_id is not None:
            _require_identity(board, board_id)
        if reservation is None:
            refuse_reserved(board)
            yield BoardJob(board, emit)
            return
        reserve(board, seconds=reservation.seconds, why=reservation.why, wait_s=0, emit=emit, job=reservation.job)
        try:
            yield BoardJob(board, emit)
        finally:
            with suppress(BoardError):  # report the first error; the reservation expires
                release(board, force=False, job=reservation.job)


def opener_of(
    name: str, address: str, spec: BoardSpec, *, jump: str | None = None, root: str | None = None
) -> BoardOpener:
    """Return a function that opens a board over SSH; does not connect yet.

    Args:
        jump: the jump host, unless ~/.ssh/config names one.
        root: the folder for releases; None is the target's.

    Raises:
        UsageError: an address is wrong.
    """
    to, via = Address.parse(address), Address.parse(jump) if jump is not None else None
    where = PurePosixPath(root or spec.root)
    return lambda: open_ssh(to, name=name, python=spec.python, root=where, jump=via)


def _require_identity(board: Board, board_id: str) -> None:
    found = read_facts(board).soc_uid
    if found is None or found.lower() != board_id.lower().removeprefix("0x"):
        raise BoardError(
            f"its serial number is {found}, the inventory says {board_id}",
            board=board.name,
            step="connect",
            hint="another board has this address: correct the inventory, or the network",
        )
