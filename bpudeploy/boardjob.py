"""One job on one board: connected, identified, and not reserved by anybody else; each piece of work is a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from bpudeploy.boards.address import Address
from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.boards.facts import read_facts
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.effects import bench, verify
from bpudeploy.effects.lost import watched
from bpudeploy.effects.push import STEP as PUSH
from bpudeploy.effects.push import Policy, Pushed, push
from bpudeploy.effects.reserve import refuse_reserved, release, reserve
from bpudeploy.effects.rollback import RolledBack, rollback
from bpudeploy.effects.served import Served, served
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, StepFinished, StepStarted
from bpudeploy.measure import Candidate, measure
from bpudeploy.release import Release
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import BoardSpec


@dataclass(frozen=True)
class Claim:
    """A reservation for the time of one job; given back at its end."""

    seconds: float
    why: str
    job: str
    """One word that tells this job from its user's own reservations."""


@dataclass(frozen=True)
class BoardJob:
    """A connection to a board with the listener for its events bound."""

    board: Board
    emit: Callable[[Event], None]

    def served(self, step: str) -> Served:
        """Return the board's current and previous release."""
        return served(self.board, step=step)

    def push(self, release: Release, policy: Policy) -> Pushed:
        """Make ``release`` current; see ``effects.push``."""
        self.emit(StepStarted(PUSH))
        pushed = push(self.board, release, policy, self.emit)
        self.emit(StepFinished(PUSH, "miss" if pushed.changed else "hit", (release.digest,), pushed.seconds))
        return pushed

    def check(self, candidate: Candidate) -> SelfCheck:
        """Run the installed release on the golden images; see ``effects.verify``."""
        return verify.verify(self.board, candidate.release, candidate.golden, self.emit)

    def check_or_go_back(self, candidate: Candidate, policy: Policy, pushed: Pushed) -> SelfCheck:
        """``check``, and if the release was activated just now and is wrong, go back to the one before.

        Raises:
            BoardError: the board does not run the release as the host does; it says what the board serves now.
        """
        self.emit(StepStarted(verify.STEP))
        before = time.perf_counter()
        checked = verify.verify_or_go_back(
            self.board, candidate.release, candidate.golden, policy, pushed.changed, self.emit
        )
        self.emit(StepFinished(verify.STEP, "miss", (), time.perf_counter() - before))
        return checked

    def measure(self, candidates: Sequence[Candidate], method: BenchmarkSpec) -> tuple[Measurement, ...]:
        """Measure candidates of one evaluation set, interleaved; see ``measure.measure``."""
        self.emit(StepStarted(bench.STEP))
        before = time.perf_counter()
        measured = measure(self.board, candidates, method, self.emit)
        self.emit(StepFinished(bench.STEP, "miss", (), time.perf_counter() - before, measured[0].peak_memory_mb))
        return measured

    def roll_back(self, policy: Policy) -> RolledBack:
        """Make the previous release current; see ``effects.rollback``."""
        return rollback(self.board, self.emit, signed=policy.key is not None, patience=policy.patience)


@contextmanager
def on_board(
    opener: BoardOpener, emit: Callable[[Event], None], *, board_id: str | None = None, claim: Claim | None = None
) -> Iterator[BoardJob]:
    """Connect to a board for one job.

    Args:
        board_id: the SoC's serial number that the board must have; None accepts any.
        claim: reserve the board for the job. Without it the job only refuses a board that somebody else reserved.

    Raises:
        Reserved: somebody else has reserved the board.
        ConnectionLost: the connection broke; it says whether the board was rebooted.
        BoardError: it cannot be reached, or another board answers at its address.
    """
    with watched(opener) as board:
        if board_id is not None:
            require_identity(board, board_id)
        if claim is None:
            refuse_reserved(board)
            yield BoardJob(board, emit)
            return
        reserve(board, seconds=claim.seconds, why=claim.why, wait_s=0, emit=emit, job=claim.job)
        try:
            yield BoardJob(board, emit)
        finally:
            with suppress(BoardError):  # report the first error; a reservation ends by itself
                release(board, force=False, job=claim.job)


class ListedBoard(Protocol):
    """Where an inventory says that a board is."""

    @property
    def address(self) -> str: ...

    @property
    def jump(self) -> str | None: ...

    @property
    def root(self) -> str | None: ...


def opener_of(name: str, listed: ListedBoard, spec: BoardSpec) -> BoardOpener:
    """Return what opens a board of an inventory; connects to nothing yet."""
    jump = Address.parse(listed.jump) if listed.jump is not None else None
    address = Address.parse(listed.address)
    root = PurePosixPath(listed.root or spec.root)
    return lambda: open_ssh(address, name=name, python=spec.python, root=root, jump=jump)


def require_identity(board: Board, board_id: str) -> None:
    """Check that a board has the serial number that the inventory names.

    Raises:
        BoardError: another serial number answers at this address.
    """
    found = read_facts(board).soc_uid
    if found is None or found.lower() != board_id.lower().removeprefix("0x"):
        raise BoardError(
            f"its serial number is {found}, the inventory says {board_id}",
            board=board.name,
            step="connect",
            hint="another board has this address: correct the inventory, or the network",
        )
