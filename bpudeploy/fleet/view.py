"""What is known of a rollout, as a fold of its events: where each board stands, and what the whole waits for.

The fold needs no clock and no board: whoever reads the same journal sees the same rollout, the controller that goes on
after a kill as well as ``fleet status`` in another terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from bpudeploy.fleet.events import (
    Controlled,
    Ended,
    Ending,
    Event,
    Finished,
    Late,
    Order,
    Ordered,
    Place,
    Planned,
    Reached,
    Result,
    Started,
    WaveEnded,
    Work,
)
from bpudeploy.spec.fleet import Reserved, RolloutSpec


class State(StrEnum):
    """Where a board stands."""

    SKIPPED = "skipped"
    """It was planned to get nothing."""
    WAITING = "waiting"
    """Something is to be done to it, for the first time or again."""
    UPDATING = "updating"
    ROLLING_BACK = "rolling back"
    LATE = "late"
    """It is worked on for longer than it may be: it counts as failed, though it may still end well."""
    DONE = "done"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    RESERVED = "reserved"


ON_TIME = frozenset({State.UPDATING, State.ROLLING_BACK})
"""A worker has it, and is not late."""
IN_WORK = ON_TIME | {State.LATE}
"""A worker has it."""
OPEN = ON_TIME | {State.WAITING}
"""Its wave waits for it."""


@dataclass(frozen=True)
class BoardView:
    """One board."""

    place: Place
    state: State
    since: float
    work: Work = Work.UPDATE
    """What is, was last, or is first to be done."""
    attempts: int = 0
    """How often this work was begun."""
    unreached: int = 0
    """How many of these did not reach it, or lost it."""
    reserved_since: float | None = None
    tried_at: float | None = None
    """When this work ended without a result; None where there is no reason to wait before it is begun (again)."""
    step: str = ""
    """How far the work has got."""
    detail: str = ""
    before: str | None = None
    """What it served before this rollout first touched it, where that is known; empty: nothing."""
    serves: str | None = None
    """What it serves, where that is known."""
    changed: bool = False
    """This rollout put its release there, and did not take it back."""
    doubtful: bool = False
    """It was touched, and nobody knows what it serves, or whether it serves anything."""
    failed: bool = False
    """Its update failed or was late: it counts towards the threshold."""
    bytes_sent: int = 0

    @property
    def unavailable(self) -> bool:
        """Whether it is, or may be, out of service because of this rollout."""
        return self.state in IN_WORK or self.doubtful

    @property
    def to_be_undone(self) -> bool:
        """Whether it serves this rollout's release because of this rollout, or may."""
        return self.changed or (self.doubtful and self.before not in (None, self.place.release))


class Phase(StrEnum):
    """What a rollout is at."""

    RUNNING = "running"
    PAUSED = "paused"
    SOAKING = "soaking"
    """The last wave is left alone for a while."""
    APPROVAL = "waiting for approval"
    STOPPING = "stopping"
    """Too many failed, or it was aborted: nothing new is begun, and the boards go back where the policy says so."""
    FINISHED = "finished"


@dataclass(frozen=True)
class RolloutView:
    """A rollout; made by ``view``."""

    planned: Planned
    boards: Mapping[str, BoardView]
    """In the order of the plan."""
    wave_ends: tuple[float, ...] = ()
    """When each wave that has ended did."""
    approved: frozenset[int] = frozenset()
    paused: bool = False
    aborted: bool = False
    stopped_wave: int | None = None
    """The wave of the board that was one failure too many; once set, it stays."""
    controller: str | None = None
    """Who took it up last."""
    result: Result | None = None
    why: str = ""
    last_at: float = 0.0

    @property
    def policy(self) -> RolloutSpec:
        return self.planned.policy

    @property
    def waves(self) -> int:
        return len(self.planned.soaks)

    @property
    def wave(self) -> int:
        """The wave in progress, or next: as many as there are waves when all have ended."""
        return len(self.wave_ends)

    @property
    def soak_until(self) -> float | None:
        """When the soak of the last wave that ended is over."""
        return self.wave_ends[-1] + self.planned.soaks[self.wave - 1] if self.wave_ends else None

    @property
    def failures(self) -> int:
        """How many boards count towards the threshold."""
        return sum(board.failed for board in self.boards.values())

    def of_wave(self, wave: int) -> tuple[BoardView, ...]:
        """Return the boards that are updated in a wave."""
        return tuple(b for b in self.boards.values() if b.place.wave == wave and b.state is not State.SKIPPED)

    def phase(self, now: float) -> Phase:
        """Return what it is at; whether a maintenance window is open is not known here."""
        if self.result is not None:
            return Phase.FINISHED
        if self.aborted or self.stopped_wave is not None:
            return Phase.STOPPING
        if self.paused:
            return Phase.PAUSED
        if self.wave < self.waves:
            if self.soak_until is not None and now < self.soak_until:
                return Phase.SOAKING
            if self.wave in self.planned.approvals and self.wave not in self.approved:
                return Phase.APPROVAL
        return Phase.RUNNING


def view(events: Sequence[Event]) -> RolloutView:
    """Return what follows from the first events of a journal, however many of them there are.

    Raises:
        ValueError: the first does not say what the rollout is, or puts a board in a wave that there is not.
    """
    if not events or not isinstance(events[0], Planned):
        raise ValueError("a rollout's first event says what was planned")
    return reduce(after, events[1:], _begin(events[0]))


def _begin(planned: Planned) -> RolloutView:
    boards = {}
    for place in planned.places:
        skipped = place.skipped is not None
        if place.board in boards or (not skipped and not 0 <= place.wave < len(planned.soaks)):
            raise ValueError(f"board {place.board!r} is not in exactly one of {len(planned.soaks)} waves")
        state = State.SKIPPED if skipped else State.WAITING
        boards[place.board] = BoardView(place, state, planned.at, detail=place.skipped or "")
    return RolloutView(planned, boards, last_at=planned.at)


def after(before: RolloutView, event: Event) -> RolloutView:
    """Return what is known when one thing more has happened."""
    at = event.at
    match event:
        case Planned():
            return before
        case Controlled():
            boards = {name: _interrupted(board, at) for name, board in before.boards.items()}
            return replace(before, boards=boards, controller=event.by, last_at=at)
        case Started() | Reached() | Late() | Ended():
            board = _board_after(before.boards[event.board], event, before.policy)
            known = replace(before, boards={**before.boards, event.board: board}, last_at=at)
            stops = before.stopped_wave is None and board.failed and known.failures > known.policy.max_failures
            return replace(known, stopped_wave=board.place.wave) if stops else known
        case Ordered():
            return _ordered(replace(before, last_at=at), event)
        case WaveEnded():
            return replace(before, wave_ends=(*before.wave_ends, at), last_at=at)
        case Finished():
            return replace(before, result=event.result, why=event.why, last_at=at)


def _ordered(known: RolloutView, event: Ordered) -> RolloutView:
    match event.order:
        case Order.PAUSE:
            return replace(known, paused=True)
        case Order.RESUME:
            return replace(known, paused=False)
        case Order.ABORT:
            return replace(known, aborted=True)
        case Order.APPROVE:
            waiting = sorted(set(known.planned.approvals) - known.approved)
            wave = waiting[0] if event.wave is None and waiting else event.wave
            return known if wave is None else replace(known, approved=known.approved | {wave})


def _interrupted(board: BoardView, at: float) -> BoardView:
    """A worker that had it is gone with its controller: it is to be looked at again, at once."""
    if board.state not in IN_WORK:
        return board if board.tried_at is None else replace(board, tried_at=None)
    return replace(
        board,
        state=State.WAITING,
        since=at,
        tried_at=None,
        detail=f"its controller stopped during {board.step or 'the start'}",
        serves=None,
        doubtful=True,
        failed=board.failed and board.work is Work.ROLLBACK,
    )


def _board_after(board: BoardView, event: Started | Reached | Late | Ended, policy: RolloutSpec) -> BoardView:
    match event:
        case Started():
            state = State.UPDATING if event.work is Work.UPDATE else State.ROLLING_BACK
            if event.work is not board.work:
                board = replace(board, work=event.work, unreached=0, reserved_since=None)
            if event.work is Work.UPDATE and not board.to_be_undone and not board.doubtful:
                board = replace(board, before=None)  # others may have brought it another release meanwhile
            return replace(board, state=state, since=event.at, attempts=event.attempt, tried_at=None, step="")
        case Reached():
            before = event.serves if board.before is None else board.before
            serves = board.serves if event.serves is None else event.serves
            return replace(board, step=event.step, detail=event.detail, before=before, serves=serves)
        case Late():
            failed = board.failed or board.work is Work.UPDATE
            detail = f"longer than {policy.board_seconds:g} s, at {board.step or 'the start'}"
            return replace(board, state=State.LATE, since=event.at, failed=failed, detail=detail)
        case Ended():
            return _ended(_served(board, event), event, policy)


def _served(board: BoardView, event: Ended) -> BoardView:
    """What it serves, after work ended."""
    before = event.before if board.before is None else board.before
    serves = event.serves
    if serves is None and event.ending is Ending.DONE:
        serves = board.place.release if event.work is Work.UPDATE else before
    elif serves is None and not event.touched:
        serves = board.serves
    doubtful = serves is None and event.ending is not Ending.DONE and (board.doubtful or event.touched)
    changed = board.changed
    if event.work is Work.ROLLBACK and event.ending is Ending.DONE:
        changed = False
    elif serves is not None:
        ours = changed or (event.work is Work.UPDATE and event.changed) or before not in (None, board.place.release)
        changed = serves == board.place.release and ours
    sent = board.bytes_sent + event.bytes_sent
    return replace(board, before=before, serves=serves, doubtful=doubtful, changed=changed, bytes_sent=sent)


_FINAL = {
    Ending.FAILED: State.FAILED,
    Ending.UNREACHABLE: State.UNREACHABLE,
    Ending.RESERVED: State.RESERVED,
}


def _ended(board: BoardView, event: Ended, policy: RolloutSpec) -> BoardView:
    """Where it stands after work ended; one that was late is not tried again, for its wave has gone on without it."""
    was_late = board.state is State.LATE
    updating = event.work is Work.UPDATE
    failed = event.ending is Ending.FAILED if updating else board.failed
    board = replace(board, since=event.at, detail=event.detail, failed=failed)
    again = replace(board, state=State.WAITING, tried_at=event.at)
    match event.ending:
        case Ending.DONE:
            return replace(board, state=State.DONE if updating else State.ROLLED_BACK)
        case Ending.ABANDONED:
            return again
        case Ending.UNREACHABLE if not was_late:
            again = replace(again, unreached=board.unreached + 1)
            if again.unreached < policy.attempts:
                return again
        case Ending.RESERVED if not was_late and policy.reserved is Reserved.WAIT:
            first = event.at if board.reserved_since is None else board.reserved_since
            if event.at < first + policy.reserved_seconds:
                return replace(again, reserved_since=first)
    return replace(board, state=_FINAL[event.ending])
