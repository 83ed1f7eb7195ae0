"""A test oracle: checks every step of a simulated rollout against the real state of the boards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from bpudeploy.fleet.events import (
    BoardEnded,
    BoardLate,
    BoardPlan,
    BoardStarted,
    BoardTask,
    CommandGiven,
    ControllerStarted,
    Event,
    RolloutCommand,
    RolloutFinished,
    RolloutPlanned,
    RolloutResult,
    TaskKind,
    TaskStatus,
    WaveEnded,
)
from bpudeploy.fleet.view import IN_PROGRESS, ON_TIME, PENDING, BoardState, RolloutView, apply, replay
from bpudeploy.spec.fleet import OnFailure

NEW = "new"


class Fault(Enum):
    """How a board behaves when it is updated."""

    WELL = auto()
    HAS_IT = auto()
    REFUSES = auto()
    FULL = auto()
    WRONG_KEY = auto()
    SLOW = auto()
    STALLS = auto()
    """Its worker ends long after it should have, or never."""
    BAD_GATE = auto()
    DIES_BEFORE = auto()
    """During the activation, before the switch."""
    DIES_AFTER = auto()
    DIES_GOING_BACK = auto()
    AWAY = auto()
    """It is off at first, untouched."""


@dataclass
class SimBoard:
    """The real state of one board."""

    name: str
    fault: Fault
    serves: str
    reserved_until: float
    down_until: float = 0.0
    broken: bool = False
    """It is out of service because of what we did; until ``down_until``."""
    activations: int = 0
    gone_back: int = 0
    """How often a gate took it back; it is updated again only where nobody lived to write down that it failed."""
    going_back: bool = False
    activating: bool = False
    before: str = ""

    def __post_init__(self) -> None:
        self.before = self.serves

    def activate(self) -> None:
        """Switch to the new release."""
        assert self.activations == self.gone_back, f"{self.name} is activated twice"
        assert self.serves != NEW
        self.serves, self.activations = NEW, self.activations + 1


@dataclass
class Oracle:
    """Receives every event and task, and asserts that they agree with the boards."""

    planned: RolloutPlanned
    boards: dict[str, SimBoard]
    max_unavailable: int
    in_window: Callable[[float], bool]
    events: list[Event] = field(default_factory=list)
    seen: RolloutView | None = None
    failed: set[str] = field(default_factory=set)
    exceeded: bool = False

    def record(self, event: Event) -> None:
        self.events.append(event)
        if self.seen is None:
            self.seen = replay([event])
            return
        assert self.seen.result is None or not isinstance(event, BoardStarted), "something starts after the end"
        if isinstance(event, BoardStarted):
            self._check_allowed(self.seen, event)
        self._count(self.seen, event)
        if isinstance(event, WaveEnded):
            assert event.wave == self.seen.wave, "a wave ends out of turn"
            assert not [b for b in self.seen.boards_of_wave(event.wave) if b.state in PENDING], "a wave ends too soon"
        self.seen = apply(self.seen, event)
        assert list(self.seen.boards) == [plan.board for plan in self.planned.places], "a board is lost"
        if isinstance(event, RolloutFinished):
            self._check_end(self.seen)
        elif isinstance(event, BoardEnded):
            self._check_board(self.seen, event.board)

    def _count(self, seen: RolloutView, event: Event) -> None:
        """Count failures from the bare events."""
        if isinstance(event, BoardLate) and seen.boards[event.board].work is TaskKind.UPDATE:
            self.failed.add(event.board)
        elif isinstance(event, BoardEnded) and event.work is TaskKind.UPDATE:
            (self.failed.add if event.ending is TaskStatus.FAILED else self.failed.discard)(event.board)
        elif isinstance(event, ControllerStarted):
            self.failed -= {name for name, b in seen.boards.items() if b.state is BoardState.LATE}
        self.exceeded = self.exceeded or len(self.failed) > self.planned.policy.max_failures

    def _check_allowed(self, seen: RolloutView, event: BoardStarted) -> None:
        board = seen.boards[event.board]
        assert board.state not in IN_PROGRESS and board.state is not BoardState.SKIPPED, (
            f"{event.board} is {board.state}"
        )
        assert not seen.aborted, "something starts after an abort"
        if event.work is TaskKind.ROLLBACK:
            assert self.exceeded and self.planned.policy.on_failure is not OnFailure.STOP
            assert not any(b.work is TaskKind.UPDATE for b in seen.boards.values() if b.state in ON_TIME)
            return
        assert board.state is BoardState.WAITING
        assert not self.exceeded, f"{len(self.failed)} failed, and {event.board} is updated all the same"
        assert not seen.paused and self.in_window(event.at), "paused, or outside the windows"
        wave = board.plan.wave
        earlier = [b for b in seen.boards.values() if b.plan.wave < wave and b.state in PENDING]
        assert not earlier and seen.wave >= wave, f"wave {wave} begins before {earlier[0].plan.board} has ended"
        if wave:
            assert event.at >= seen.wave_ends[wave - 1] + self.planned.soaks[wave - 1], "no soak"
        approved = [e for e in self.events if isinstance(e, CommandGiven) and e.order is RolloutCommand.APPROVE]
        assert wave not in self.planned.approvals or len(approved) > sorted(self.planned.approvals).index(wave)

    def check_start(self, task: BoardTask, workers: Sequence[str]) -> None:
        """``workers`` are those at work, this one not yet among them."""
        assert self.seen is not None
        name = task.plan.board
        assert name not in workers, "two workers on one board"
        assert self.seen.boards[name].state in ON_TIME, "work begins that the journal does not announce"
        down = {b.name for b in self.boards.values() if b.broken} | set(workers)
        if name in down or len(down) < self.max_unavailable:
            return
        fresh = [n for n, b in self.seen.boards.items() if b.state in ON_TIME and not b.uncertain and n != name]
        if self.seen.boards[name].uncertain and task.work is TaskKind.ROLLBACK:
            return  # it was counted as out of service, though it may have come back
        assert task.work is TaskKind.ROLLBACK, (
            f"{len(down) + 1} boards are out of service, {self.max_unavailable} may be"
        )
        assert not fresh, "more than one goes back where none has room"

    def check_always(self, workers: Sequence[str]) -> None:
        """Check the invariants of every step."""
        down = {b.name for b in self.boards.values() if b.broken} | set(workers)
        rolls = any(isinstance(e, BoardStarted) and e.work is TaskKind.ROLLBACK for e in self.events)
        assert rolls or len(down) <= self.max_unavailable, f"{sorted(down)} are out of service"

    def _check_board(self, seen: RolloutView, name: str) -> None:
        board, truth = seen.boards[name], self.boards[name]
        assert board.serves is None or board.serves == truth.serves, f"{name} serves {truth.serves}"
        assert board.uncertain or not truth.broken, f"{name} is broken, and nobody says so"
        assert truth.serves in (truth.before, NEW)
        if board.state is BoardState.DONE:
            assert truth.serves == NEW
        if board.state is BoardState.ROLLED_BACK:
            assert truth.serves == truth.before, f"{name} was rolled back to {truth.serves}"

    def _check_end(self, seen: RolloutView) -> None:
        for name, board in seen.boards.items():
            if board.state is not BoardState.LATE:
                self._check_board(seen, name)
            assert board.state not in ON_TIME, f"it ended with {name} {board.state}"
            truth = self.boards[name]
            assert board.state is not BoardState.SKIPPED or truth.activations == 0
            assert board.before is None or board.before == truth.before
            ours = truth.serves == NEW != truth.before
            if seen.result is RolloutResult.FAILED and ours and not seen.aborted:
                self._check_rolled_back(seen, name)
        if seen.result is RolloutResult.COMPLETE:
            assert all(b.state in (BoardState.DONE, BoardState.SKIPPED) for b in seen.boards.values())
        left = [b for b in seen.boards.values() if b.state is BoardState.WAITING]
        if seen.result is RolloutResult.INCOMPLETE and left:
            assert sum(b.unavailable for b in seen.boards.values()) >= self.max_unavailable, "it gave up too soon"
            assert not any(b.uncertain for b in left), "a board may have come back"
        assert (seen.result is RolloutResult.FAILED) == (self.exceeded and not seen.aborted)

    def _check_rolled_back(self, seen: RolloutView, name: str) -> None:
        """It still has the release, though the rollout failed: the policy says so, or going back was tried."""
        board, how = seen.boards[name], self.planned.policy.on_failure
        assert seen.stopped_wave is not None
        if how is OnFailure.STOP or (how is OnFailure.ROLLBACK_WAVE and board.plan.wave < seen.stopped_wave):
            return
        assert board.state is BoardState.LATE or board.work is TaskKind.ROLLBACK, (
            f"{name} is {board.state}, and was left"
        )


def board_plan(name: str, wave: int, skipped: bool = False) -> BoardPlan:
    """Return a board's plan in a rollout."""
    return BoardPlan(
        board=name,
        address=name,
        jump=None,
        board_id=None,
        target="t",
        release=None if skipped else NEW,
        wave=wave,
        skipped="nothing is built for its target" if skipped else None,
    )
