"""The state of a rollout and its boards, replayed from the journal's events.

The replay needs no clock and no board, so every reader of a journal sees the same rollout: the next controller as well
as ``fleet status`` in another terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from bpudeploy.fleet.events import (
    BoardEnded,
    BoardLate,
    BoardPlan,
    BoardStarted,
    CommandGiven,
    ControllerStarted,
    Event,
    RolloutCommand,
    RolloutFinished,
    RolloutPlanned,
    RolloutResult,
    StepReached,
    TaskKind,
    TaskStatus,
    WaveEnded,
)
from bpudeploy.spec.fleet import Reserved, RolloutSpec


class BoardState(StrEnum):
    """The state of a board."""

    SKIPPED = "skipped"
    """It gets no release."""
    WAITING = "waiting"
    """A task is to be started, for the first time or again."""
    UPDATING = "updating"
    ROLLING_BACK = "rolling back"
    LATE = "late"
    """Its task exceeds the time limit: it counts as failed, even though it may still succeed."""
    DONE = "done"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    RESERVED = "reserved"


ON_TIME = frozenset({BoardState.UPDATING, BoardState.ROLLING_BACK})
"""A task runs and is not late."""
IN_PROGRESS = ON_TIME | {BoardState.LATE}
"""A task runs."""
PENDING = ON_TIME | {BoardState.WAITING}
"""The wave waits for the board."""


@dataclass(frozen=True)
class BoardView:
    """The state of one board."""

    plan: BoardPlan
    state: BoardState
    since: float
    work: TaskKind = TaskKind.UPDATE
    """The kind of the current, last or first task."""
    attempts: int = 0
    """How often this kind of task was started."""
    lost_attempts: int = 0
    """How many of them did not reach the board, or lost the connection."""
    reserved_since: float | None = None
    tried_at: float | None = None
    """When the last attempt ended without a result; None if the next one need not wait."""
    step: str = ""
    """The last step reached."""
    detail: str = ""
    before: str | None = None
    """The release served before this rollout first changed the board, if known; empty: none."""
    serves: str | None = None
    """The release served now, if known; empty: none."""
    changed: bool = False
    """This rollout installed its release, and has not rolled it back."""
    uncertain: bool = False
    """The board was changed, and what it serves, if anything, is unknown."""
    failed: bool = False
    """Its update failed or was late: it counts towards ``max_failures``."""
    bytes_sent: int = 0

    @property
    def unavailable(self) -> bool:
        """Whether this rollout took, or may have taken, the board out of service."""
        return self.state in IN_PROGRESS or self.uncertain

    @property
    def needs_rollback(self) -> bool:
        """Whether the board serves, or may serve, a release that this rollout installed."""
        return self.changed or (self.uncertain and self.before not in (None, self.plan.release))


class Phase(StrEnum):
    """What a rollout is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    SOAKING = "soaking"
    """Waiting before the next wave."""
    APPROVAL = "waiting for approval"
    STOPPING = "stopping"
    """Too many boards failed, or it was aborted: no update starts, and boards are rolled back if the policy says so."""
    FINISHED = "finished"


@dataclass(frozen=True)
class RolloutView:
    """The state of a rollout; see ``replay``."""

    planned: RolloutPlanned
    boards: Mapping[str, BoardView]
    """In the order of the plan."""
    wave_ends: tuple[float, ...] = ()
    """When each finished wave ended."""
    approved: frozenset[int] = frozenset()
    paused: bool = False
    aborted: bool = False
    stopped_wave: int | None = None
    """The wave whose failure exceeded ``max_failures``; once set, it stays."""
    result: RolloutResult | None = None
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
        """The wave in progress or next; equal to ``waves`` when all have ended."""
        return len(self.wave_ends)

    @property
    def soak_until(self) -> float | None:
        """When the soak of the last finished wave ends."""
        return self.wave_ends[-1] + self.planned.soaks[self.wave - 1] if self.wave_ends else None

    @property
    def failures(self) -> int:
        """How many boards count towards ``max_failures``."""
        return sum(board.failed for board in self.boards.values())

    def boards_of_wave(self, wave: int) -> tuple[BoardView, ...]:
        """Return the boards updated in a wave."""
        return tuple(b for b in self.boards.values() if b.plan.wave == wave and b.state is not BoardState.SKIPPED)

    def phase(self, now: float) -> Phase:
        """Return what the rollout is doing at ``now``, disregarding maintenance windows."""
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


def replay(events: Sequence[Event]) -> RolloutView:
    """Return the state after the first events of a journal, however many there are.

    Raises:
        ValueError: the first event is not ``RolloutPlanned``, or puts a board in a wave that does not exist.
    """
    if not events or not isinstance(events[0], RolloutPlanned):
        raise ValueError("a journal's first event is 'planned'")
    return reduce(apply, events[1:], _initial(events[0]))


def _initial(planned: RolloutPlanned) -> RolloutView:
    boards = {}
    for plan in planned.places:
        skipped = plan.skipped is not None
        if plan.board in boards or (not skipped and not 0 <= plan.wave < len(planned.soaks)):
            raise ValueError(f"board {plan.board!r} is not in exactly one of {len(planned.soaks)} waves")
        state = BoardState.SKIPPED if skipped else BoardState.WAITING
        boards[plan.board] = BoardView(plan, state, planned.at, detail=plan.skipped or "")
    return RolloutView(planned, boards, last_at=planned.at)


def apply(view: RolloutView, event: Event) -> RolloutView:
    """Return the state after one more event."""
    at = event.at
    match event:
        case RolloutPlanned():
            return view
        case ControllerStarted():
            boards = {name: _interrupted(board, at) for name, board in view.boards.items()}
            return replace(view, boards=boards, last_at=at)
        case BoardStarted() | StepReached() | BoardLate() | BoardEnded():
            board = _apply_to_board(view.boards[event.board], event, view.policy)
            view = replace(view, boards={**view.boards, event.board: board}, last_at=at)
            stops = view.stopped_wave is None and board.failed and view.failures > view.policy.max_failures
            return replace(view, stopped_wave=board.plan.wave) if stops else view
        case CommandGiven():
            return _apply_command(replace(view, last_at=at), event)
        case WaveEnded():
            return replace(view, wave_ends=(*view.wave_ends, at), last_at=at)
        case RolloutFinished():
            return replace(view, result=event.result, why=event.why, last_at=at)


def _apply_command(view: RolloutView, event: CommandGiven) -> RolloutView:
    match event.order:
        case RolloutCommand.PAUSE:
            return replace(view, paused=True)
        case RolloutCommand.RESUME:
            return replace(view, paused=False)
        case RolloutCommand.ABORT:
            return replace(view, aborted=True)
        case RolloutCommand.APPROVE:
            waiting = sorted(set(view.planned.approvals) - view.approved)
            wave = waiting[0] if event.wave is None and waiting else event.wave
            return view if wave is None else replace(view, approved=view.approved | {wave})


def _interrupted(board: BoardView, at: float) -> BoardView:
    """The worker is gone with its controller: if a task ran, it is repeated at once."""
    if board.state not in IN_PROGRESS:
        return board if board.tried_at is None else replace(board, tried_at=None)
    return replace(
        board,
        state=BoardState.WAITING,
        since=at,
        tried_at=None,
        detail=f"the controller stopped at step: {board.step or 'start'}",
        serves=None,
        uncertain=True,
        failed=board.failed and board.work is TaskKind.ROLLBACK,
    )


def _apply_to_board(
    board: BoardView, event: BoardStarted | StepReached | BoardLate | BoardEnded, policy: RolloutSpec
) -> BoardView:
    match event:
        case BoardStarted():
            state = BoardState.UPDATING if event.work is TaskKind.UPDATE else BoardState.ROLLING_BACK
            if event.work is not board.work:
                board = replace(board, work=event.work, lost_attempts=0, reserved_since=None)
            if event.work is TaskKind.UPDATE and not board.needs_rollback and not board.uncertain:
                board = replace(board, before=None)  # another user may have installed a release meanwhile
            return replace(board, state=state, since=event.at, attempts=event.attempt, tried_at=None, step="")
        case StepReached():
            before = event.serves if board.before is None else board.before
            serves = board.serves if event.serves is None else event.serves
            return replace(board, step=event.step, detail=event.detail, before=before, serves=serves)
        case BoardLate():
            failed = board.failed or board.work is TaskKind.UPDATE
            detail = f"exceeded board_seconds {policy.board_seconds:g} at step: {board.step or 'start'}"
            return replace(board, state=BoardState.LATE, since=event.at, failed=failed, detail=detail)
        case BoardEnded():
            return _apply_end(_apply_release(board, event), event, policy)


def _apply_release(board: BoardView, event: BoardEnded) -> BoardView:
    """Update what the board serves after a task."""
    before = event.before if board.before is None else board.before
    serves = event.serves
    if serves is None and event.ending is TaskStatus.DONE:
        serves = board.plan.release if event.work is TaskKind.UPDATE else before
    elif serves is None and not event.touched:
        serves = board.serves
    uncertain = serves is None and event.ending is not TaskStatus.DONE and (board.uncertain or event.touched)
    changed = board.changed
    if event.work is TaskKind.ROLLBACK and event.ending is TaskStatus.DONE:
        changed = False
    elif serves is not None:
        updated = event.work is TaskKind.UPDATE and event.changed
        installed = changed or updated or before not in (None, board.plan.release)
        changed = serves == board.plan.release and installed
    sent = board.bytes_sent + event.bytes_sent
    return replace(board, before=before, serves=serves, uncertain=uncertain, changed=changed, bytes_sent=sent)


def _apply_end(board: BoardView, event: BoardEnded, policy: RolloutSpec) -> BoardView:
    """Update the state after a task; a late board is not tried again, because its wave continued without it."""
    was_late = board.state is BoardState.LATE
    updating = event.work is TaskKind.UPDATE
    failed = event.ending is TaskStatus.FAILED if updating else board.failed
    board = replace(board, since=event.at, detail=event.detail, failed=failed)
    again = replace(board, state=BoardState.WAITING, tried_at=event.at)
    match event.ending:
        case TaskStatus.DONE:
            return replace(board, state=BoardState.DONE if updating else BoardState.ROLLED_BACK)
        case TaskStatus.ABANDONED:
            return again
        case TaskStatus.UNREACHABLE if not was_late:
            again = replace(again, lost_attempts=board.lost_attempts + 1)
            if again.lost_attempts < policy.attempts:
                return again
        case TaskStatus.RESERVED if not was_late and policy.reserved is Reserved.WAIT:
            first = event.at if board.reserved_since is None else board.reserved_since
            if event.at < first + policy.reserved_seconds:
                return replace(again, reserved_since=first)
    return replace(board, state=BoardState(event.ending.value))
