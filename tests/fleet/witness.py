"""Who sees every step of a simulated rollout, knows how the boards really are, and holds one against the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from bpudeploy.fleet.events import (
    Controlled,
    Ended,
    Ending,
    Event,
    Finished,
    Job,
    Late,
    Order,
    Ordered,
    Place,
    Planned,
    Result,
    Started,
    WaveEnded,
    Work,
)
from bpudeploy.fleet.view import IN_WORK, ON_TIME, OPEN, RolloutView, State, after, view
from bpudeploy.spec.fleet import OnFailure

NEW = "new"


class Fate(Enum):
    """What a board does when it is updated."""

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
    """One board, as it really is."""

    name: str
    fate: Fate
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
class Witness:
    """Sees every event and every beginning, and knows what is true: says so when they do not agree."""

    planned: Planned
    boards: dict[str, SimBoard]
    max_unavailable: int
    in_window: Callable[[float], bool]
    events: list[Event] = field(default_factory=list)
    seen: RolloutView | None = None
    failed: set[str] = field(default_factory=set)
    exceeded: bool = False

    def sees(self, event: Event) -> None:
        self.events.append(event)
        if self.seen is None:
            self.seen = view([event])
            return
        assert self.seen.result is None or not isinstance(event, Started), "something starts after the end"
        if isinstance(event, Started):
            self._allowed(self.seen, event)
        self._count(self.seen, event)
        if isinstance(event, WaveEnded):
            assert event.wave == self.seen.wave, "a wave ends out of turn"
            assert not [b for b in self.seen.of_wave(event.wave) if b.state in OPEN], "a wave ends too soon"
        self.seen = after(self.seen, event)
        assert list(self.seen.boards) == [place.board for place in self.planned.places], "a board is lost"
        if isinstance(event, Finished):
            self._honest_end(self.seen)
        elif isinstance(event, Ended):
            self._honest(self.seen, event.board)

    def _count(self, seen: RolloutView, event: Event) -> None:
        """Count failures from the bare events."""
        if isinstance(event, Late) and seen.boards[event.board].work is Work.UPDATE:
            self.failed.add(event.board)
        elif isinstance(event, Ended) and event.work is Work.UPDATE:
            (self.failed.add if event.ending is Ending.FAILED else self.failed.discard)(event.board)
        elif isinstance(event, Controlled):
            self.failed -= {name for name, b in seen.boards.items() if b.state is State.LATE}
        self.exceeded = self.exceeded or len(self.failed) > self.planned.policy.max_failures

    def _allowed(self, seen: RolloutView, event: Started) -> None:
        board = seen.boards[event.board]
        assert board.state not in IN_WORK and board.state is not State.SKIPPED, f"{event.board} is {board.state}"
        assert not seen.aborted, "something starts after an abort"
        if event.work is Work.ROLLBACK:
            assert self.exceeded and self.planned.policy.on_failure is not OnFailure.STOP
            assert not any(b.work is Work.UPDATE for b in seen.boards.values() if b.state in ON_TIME)
            return
        assert board.state is State.WAITING
        assert not self.exceeded, f"{len(self.failed)} failed, and {event.board} is updated all the same"
        assert not seen.paused and self.in_window(event.at), "paused, or outside the windows"
        wave = board.place.wave
        earlier = [b for b in seen.boards.values() if b.place.wave < wave and b.state in OPEN]
        assert not earlier and seen.wave >= wave, f"wave {wave} begins before {earlier[0].place.board} has ended"
        if wave:
            assert event.at >= seen.wave_ends[wave - 1] + self.planned.soaks[wave - 1], "no soak"
        approved = [e for e in self.events if isinstance(e, Ordered) and e.order is Order.APPROVE]
        assert wave not in self.planned.approvals or len(approved) > sorted(self.planned.approvals).index(wave)

    def begins(self, job: Job, workers: Sequence[str]) -> None:
        """``workers`` are those at work, this one not yet among them."""
        assert self.seen is not None
        name = job.place.board
        assert name not in workers, "two workers on one board"
        assert self.seen.boards[name].state in ON_TIME, "work begins that the journal does not announce"
        down = {b.name for b in self.boards.values() if b.broken} | set(workers)
        if name in down or len(down) < self.max_unavailable:
            return
        fresh = [n for n, b in self.seen.boards.items() if b.state in ON_TIME and not b.doubtful and n != name]
        if self.seen.boards[name].doubtful and job.work is Work.ROLLBACK:
            return  # it was counted as out of service, though it may have come back
        assert job.work is Work.ROLLBACK, f"{len(down) + 1} boards are out of service, {self.max_unavailable} may be"
        assert not fresh, "more than one goes back where none has room"

    def checks(self, workers: Sequence[str]) -> None:
        """Check what holds at every moment."""
        down = {b.name for b in self.boards.values() if b.broken} | set(workers)
        rolls = any(isinstance(e, Started) and e.work is Work.ROLLBACK for e in self.events)
        assert rolls or len(down) <= self.max_unavailable, f"{sorted(down)} are out of service"

    def _honest(self, seen: RolloutView, name: str) -> None:
        board, truth = seen.boards[name], self.boards[name]
        assert board.serves is None or board.serves == truth.serves, f"{name} serves {truth.serves}"
        assert board.doubtful or not truth.broken, f"{name} is broken, and nobody says so"
        assert truth.serves in (truth.before, NEW)
        if board.state is State.DONE:
            assert truth.serves == NEW
        if board.state is State.ROLLED_BACK:
            assert truth.serves == truth.before, f"{name} was rolled back to {truth.serves}"

    def _honest_end(self, seen: RolloutView) -> None:
        for name, board in seen.boards.items():
            if board.state is not State.LATE:
                self._honest(seen, name)
            assert board.state not in ON_TIME, f"it ended with {name} {board.state}"
            truth = self.boards[name]
            assert board.state is not State.SKIPPED or truth.activations == 0
            assert board.before is None or board.before == truth.before
            ours = truth.serves == NEW != truth.before
            if seen.result is Result.FAILED and ours and not seen.aborted:
                self._went_back(seen, name)
        if seen.result is Result.COMPLETE:
            assert all(b.state in (State.DONE, State.SKIPPED) for b in seen.boards.values())
        left = [b for b in seen.boards.values() if b.state is State.WAITING]
        if seen.result is Result.INCOMPLETE and left:
            assert sum(b.unavailable for b in seen.boards.values()) >= self.max_unavailable, "it gave up too soon"
            assert not any(b.doubtful for b in left), "a board may have come back"
        assert (seen.result is Result.FAILED) == (self.exceeded and not seen.aborted)

    def _went_back(self, seen: RolloutView, name: str) -> None:
        """It still has the release, though the rollout failed: the policy says so, or going back was tried."""
        board, how = seen.boards[name], self.planned.policy.on_failure
        assert seen.stopped_wave is not None
        if how is OnFailure.STOP or (how is OnFailure.ROLLBACK_WAVE and board.place.wave < seen.stopped_wave):
            return
        assert board.state is State.LATE or board.work is Work.ROLLBACK, f"{name} is {board.state}, and was left"


def place(name: str, wave: int, skipped: bool = False) -> Place:
    """Return a board's place in a rollout."""
    return Place(
        board=name,
        address=name,
        jump=None,
        board_id=None,
        target="t",
        release=None if skipped else NEW,
        wave=wave,
        skipped="nothing is built for its target" if skipped else None,
    )
