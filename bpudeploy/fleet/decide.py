"""What a rollout does next, as a pure function of its state and of the time.

It is called again after every event, so it does not plan ahead: it names what may start now, and when the answer may
change without an event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bpudeploy.fleet.events import (
    BoardLate,
    BoardStarted,
    BoardTask,
    Event,
    RolloutFinished,
    RolloutResult,
    TaskKind,
    WaveEnded,
)
from bpudeploy.fleet.view import IN_PROGRESS, ON_TIME, PENDING, BoardState, BoardView, Phase, RolloutView
from bpudeploy.spec.fleet import OnFailure

RETRY_S = 30.0
"""Delay before an unreachable or reserved board is tried again."""
MAX_CONCURRENT = 128
"""Tasks that run at once, at most; late ones are not counted."""


@dataclass(frozen=True)
class Decision:
    """What to do now: journal ``events``, then start ``start``; without events, wait."""

    events: tuple[Event, ...] = ()
    start: tuple[BoardTask, ...] = ()
    """The tasks that ``events`` announce."""
    waits: str = ""
    """Why nothing more is started."""
    until: float | None = None
    """When that may change by itself; None: only with an event, or when a maintenance window opens."""


def decide(
    view: RolloutView, now: float, in_window: bool, max_unavailable: int, *, retry_seconds: float = RETRY_S
) -> Decision:
    """Return what to do next.

    Args:
        in_window: boards may be updated now; rollbacks need no window.
        max_unavailable: how many boards may be out of service at once because of the rollout.
    """
    if view.result is not None:
        return Decision(waits=f"finished: {view.result}")
    late = [b for b in view.boards.values() if b.state in ON_TIME and now >= _deadline(b, view)]
    if late:
        return Decision(events=tuple(BoardLate(at=now, board=b.plan.board) for b in late))
    decider = _Decider(view, now, in_window, max_unavailable, retry_seconds)
    return decider.stop() if view.phase(now) is Phase.STOPPING else decider.next_wave()


def _deadline(board: BoardView, view: RolloutView) -> float:
    return board.since + view.policy.board_seconds


@dataclass(frozen=True)
class _Decider:
    """The arguments of ``decide``."""

    view: RolloutView
    now: float
    in_window: bool
    max_unavailable: int
    retry_seconds: float

    def next_wave(self) -> Decision:
        """Update the boards of the current wave, or wait until it may begin."""
        view, phase = self.view, self.view.phase(self.now)
        # an earlier wave is current again if late boards in it lost their controller
        reopened = [b.plan.wave for b in view.boards.values() if b.state in PENDING and b.plan.wave < view.wave]
        wave = min(reopened, default=view.wave)
        if wave == view.waves:
            return self._finish(*_success(view))
        boards = view.boards_of_wave(wave)
        begun = phase is Phase.RUNNING or any(b.attempts for b in boards)
        waiting = [b for b in boards if b.state is BoardState.WAITING]
        if begun and not any(b.state in PENDING for b in boards):
            return Decision(events=(WaveEnded(at=self.now, wave=wave),))
        if phase is Phase.PAUSED:
            return self._wait("paused")
        if not begun and phase is Phase.SOAKING:
            return self._wait(f"wave {wave} of {view.waves} soaks")
        if not begun:
            return self._wait(f"wave {wave + 1} of {view.waves} waits for approval")
        if waiting and not self.in_window:
            return self._wait("outside the maintenance windows")
        ready = self._ready(waiting)
        chosen = self._limit(ready, self._free_slots)
        if chosen:
            return self._start(chosen, TaskKind.UPDATE)
        if self._running or any(b.uncertain or self.now < self._retry_at(b) for b in waiting):
            return self._wait(f"max_unavailable {self.max_unavailable} is reached" if ready else "")
        out = sum(b.unavailable for b in view.boards.values())
        why = f"boards out of service: {out}, allowed: {self.max_unavailable}; not updated in this wave: {len(waiting)}"
        return self._finish(RolloutResult.INCOMPLETE, why)

    def stop(self) -> Decision:
        """Start no update; let running tasks end, then roll boards back unless the rollout was aborted."""
        view, running = self.view, self._running
        if view.aborted and running:
            return self._wait("aborted: running tasks end")
        if view.aborted:
            return self._finish(RolloutResult.ABORTED, f"boards stay as they are: {_count(view.boards.values())}")
        if any(b.work is TaskKind.UPDATE for b in running):
            return self._wait("stopped: running updates end")
        left = [b for b in view.boards.values() if b.state not in IN_PROGRESS and self._rolls_back(b)]
        chosen = self._limit(self._ready(left), max(self._free_slots, 1 - len(running)))
        if chosen:
            return self._start(chosen, TaskKind.ROLLBACK)
        if left or running:
            return self._wait("stopped: boards are rolled back")
        states = _count(view.boards.values())
        why = f"boards failed: {view.failures}, allowed: {view.policy.max_failures}; {states}"
        return self._finish(RolloutResult.FAILED, why)

    @property
    def _running(self) -> list[BoardView]:
        """Boards with a running task that is not late."""
        return [b for b in self.view.boards.values() if b.state in ON_TIME]

    @property
    def _free_slots(self) -> int:
        return self.max_unavailable - sum(b.unavailable for b in self.view.boards.values())

    def _rolls_back(self, board: BoardView) -> bool:
        view = self.view
        assert view.stopped_wave is not None
        if board.work is TaskKind.ROLLBACK:
            return board.state is BoardState.WAITING
        match view.policy.on_failure:
            case OnFailure.STOP:
                return False
            case OnFailure.ROLLBACK_WAVE:
                return board.needs_rollback and board.plan.wave >= view.stopped_wave
            case OnFailure.ROLLBACK_ALL:
                return board.needs_rollback

    def _ready(self, boards: Sequence[BoardView]) -> list[BoardView]:
        """Return the boards that may be tried now, those with the fewest attempts first."""
        ready = [b for b in boards if b.state is not BoardState.WAITING or self.now >= self._retry_at(b)]
        return sorted(ready, key=lambda b: b.attempts if b.state is BoardState.WAITING else 0)

    def _retry_at(self, board: BoardView) -> float:
        if board.tried_at is None:
            return 0.0
        retry_at = board.tried_at + self.retry_seconds
        if board.reserved_since is None:
            return retry_at
        return min(retry_at, board.reserved_since + self.view.policy.reserved_seconds)

    def _limit(self, ready: Sequence[BoardView], slots: int) -> list[BoardView]:
        """Return the boards that may be started; one that is out of service already takes no slot."""
        chosen = []
        for board in ready:
            if not board.unavailable:
                if slots <= 0:
                    continue
                slots -= 1
            chosen.append(board)
        return chosen[: MAX_CONCURRENT - len(self._running)]

    def _start(self, boards: Sequence[BoardView], work: TaskKind) -> Decision:
        attempts = [b.attempts + 1 if b.work is work else 1 for b in boards]
        return Decision(
            events=tuple(
                BoardStarted(at=self.now, board=b.plan.board, work=work, attempt=attempt)
                for b, attempt in zip(boards, attempts, strict=True)
            ),
            start=tuple(BoardTask(plan=b.plan, work=work, before=b.before) for b in boards),
        )

    def _finish(self, result: RolloutResult, why: str) -> Decision:
        """Finish, but give late boards first as much time again as they had."""
        boards = self.view.boards.values()
        late = sum(b.state is BoardState.LATE and self.now < _deadline(b, self.view) for b in boards)
        if late:
            return self._wait(f"boards late: {late}")
        return Decision(events=(RolloutFinished(at=self.now, result=result, why=why),))

    def _wait(self, why: str) -> Decision:
        boards = self.view.boards.values()
        times = [self.view.soak_until]
        times += [_deadline(b, self.view) for b in boards if b.state in IN_PROGRESS]
        times += [self._retry_at(b) for b in boards if b.state is BoardState.WAITING]
        return Decision(waits=why, until=min((t for t in times if t is not None and t > self.now), default=None))


def _success(view: RolloutView) -> tuple[RolloutResult, str]:
    boards = [b for b in view.boards.values() if b.state is not BoardState.SKIPPED]
    done = sum(b.state is BoardState.DONE for b in boards)
    if done == len(boards):
        return RolloutResult.COMPLETE, f"boards updated: {done}"
    left = _count(b for b in boards if b.state is not BoardState.DONE)
    return RolloutResult.INCOMPLETE, f"boards updated: {done} of {len(boards)}; {left}"


def _count(boards: Iterable[BoardView]) -> str:
    counts = Counter(b.state for b in boards)
    return ", ".join(f"{counts[state]} {state}" for state in BoardState if counts[state])
