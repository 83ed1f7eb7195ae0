"""What a rollout does next, as a pure function of what is known of it and of the time.

It is asked again after every event, so a decision need not look ahead: it names what may begin now, and when the
answer may change though nothing happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bpudeploy.fleet.events import Event, Finished, Job, Late, Result, Started, WaveEnded, Work
from bpudeploy.fleet.view import IN_WORK, ON_TIME, OPEN, BoardView, Phase, RolloutView, State
from bpudeploy.spec.fleet import OnFailure

RETRY_S = 30.0
"""How long a board that could not be reached, or is reserved, is left alone before it is tried again."""
AT_WORK = 128
"""Boards that are worked on at once, at most; those that are late are not counted."""


@dataclass(frozen=True)
class Decision:
    """What is to be done now: write ``events``, then begin ``start``; without events, nothing but to wait."""

    events: tuple[Event, ...] = ()
    start: tuple[Job, ...] = ()
    """The work that ``events`` announce."""
    waits: str = ""
    """Why nothing more is begun."""
    until: float | None = None
    """When that may change by itself; None: something has to happen first (or a maintenance window to open)."""


def decide(
    view: RolloutView, now: float, in_window: bool, max_unavailable: int, *, retry_seconds: float = RETRY_S
) -> Decision:
    """Return what to do next.

    Args:
        in_window: boards may be updated now; going back needs no window.
        max_unavailable: how many boards may be out of service at once because of the rollout.
    """
    if view.result is not None:
        return Decision(waits=f"finished: {view.result}")
    late = [b for b in view.boards.values() if b.state in ON_TIME and now >= _deadline(b, view)]
    if late:
        return Decision(events=tuple(Late(at=now, board=b.place.board) for b in late))
    asked = _Asked(view, now, in_window, max_unavailable, retry_seconds)
    return asked.stopping() if view.phase(now) is Phase.STOPPING else asked.going_on()


def _deadline(board: BoardView, view: RolloutView) -> float:
    return board.since + view.policy.board_seconds


@dataclass(frozen=True)
class _Asked:
    """The arguments of ``decide``."""

    view: RolloutView
    now: float
    in_window: bool
    max_unavailable: int
    retry_seconds: float

    def going_on(self) -> Decision:
        """Waves, one after the other."""
        view, phase = self.view, self.view.phase(self.now)
        earlier = [b.place.wave for b in view.boards.values() if b.state in OPEN and b.place.wave < view.wave]
        wave = min(earlier, default=view.wave)  # an earlier one where late boards lost their controller: to be ended
        if wave == view.waves:
            return self._after_the_late(*_how_it_went(view))
        boards = view.of_wave(wave)
        opened = phase is Phase.RUNNING or any(b.attempts for b in boards)
        waiting = [b for b in boards if b.state is State.WAITING]
        if opened and not any(b.state in OPEN for b in boards):
            return Decision(events=(WaveEnded(at=self.now, wave=wave),))
        if phase is Phase.PAUSED:
            return self._wait("paused")
        if not opened and phase is Phase.SOAKING:
            return self._wait(f"wave {wave} of {view.waves} soaks")
        if not opened:
            return self._wait(f"wave {wave + 1} of {view.waves} waits for approval")
        if waiting and not self.in_window:
            return self._wait("outside the maintenance windows")
        ready = self._ready(waiting)
        chosen = self._within(ready, self._room)
        if chosen:
            return self._begin(chosen, Work.UPDATE)
        if self._running or any(b.doubtful or self.now < self._due(b) for b in waiting):
            return self._wait(f"{self.max_unavailable} boards may be out of service at once" if ready else "")
        lost = sum(b.unavailable for b in view.boards.values())
        why = (
            f"{lost} boards are out of service, {self.max_unavailable} may be: {len(waiting)} are left out of this wave"
        )
        return self._after_the_late(Result.INCOMPLETE, why)

    def stopping(self) -> Decision:
        """Nothing new; what runs ends; then boards go back, unless it was aborted."""
        view, running = self.view, self._running
        if view.aborted:
            return self._wait("aborted: work in progress ends") if running else self._after_the_late(*_aborted(view))
        if any(b.work is Work.UPDATE for b in running):
            return self._wait("stopped: updates in progress end")
        back = [b for b in view.boards.values() if b.state not in IN_WORK and self._goes_back(b)]
        chosen = self._within(self._ready(back), max(self._room, 1 - len(running)))
        if chosen:
            return self._begin(chosen, Work.ROLLBACK)
        if back or running:
            return self._wait("stopped: boards go back")
        return self._after_the_late(Result.FAILED, _failed(view))

    @property
    def _running(self) -> list[BoardView]:
        """Those that are worked on, and not late."""
        return [b for b in self.view.boards.values() if b.state in ON_TIME]

    @property
    def _room(self) -> int:
        return self.max_unavailable - sum(b.unavailable for b in self.view.boards.values())

    def _goes_back(self, board: BoardView) -> bool:
        view = self.view
        assert view.stopped_wave is not None
        if board.work is Work.ROLLBACK:
            return board.state is State.WAITING
        match view.policy.on_failure:
            case OnFailure.STOP:
                return False
            case OnFailure.ROLLBACK_WAVE:
                return board.to_be_undone and board.place.wave >= view.stopped_wave
            case OnFailure.ROLLBACK_ALL:
                return board.to_be_undone

    def _ready(self, waiting: Sequence[BoardView]) -> list[BoardView]:
        """Return those that may be tried now; those that were tried least come first."""
        ready = [b for b in waiting if b.state is not State.WAITING or self.now >= self._due(b)]
        return sorted(ready, key=lambda b: b.attempts if b.state is State.WAITING else 0)

    def _due(self, board: BoardView) -> float:
        if board.tried_at is None:
            return 0.0
        due = board.tried_at + self.retry_seconds
        if board.reserved_since is None:
            return due
        return min(due, board.reserved_since + self.view.policy.reserved_seconds)

    def _within(self, ready: Sequence[BoardView], room: int) -> list[BoardView]:
        """Return those that may be worked on at once; work on what is out of service already takes no room."""
        chosen = []
        for board in ready:
            if not board.unavailable:
                if room <= 0:
                    continue
                room -= 1
            chosen.append(board)
        return chosen[: AT_WORK - len(self._running)]

    def _begin(self, boards: Sequence[BoardView], work: Work) -> Decision:
        return Decision(
            events=tuple(
                Started(
                    at=self.now,
                    board=b.place.board,
                    work=work,
                    attempt=b.attempts + 1 if b.work is work else 1,
                )
                for b in boards
            ),
            start=tuple(Job(place=b.place, work=work, before=b.before) for b in boards),
        )

    def _after_the_late(self, result: Result, why: str) -> Decision:
        """Finish; but those that are late may hold up the end, if nothing else, for as long again as they had."""
        held = [b for b in self.view.boards.values() if b.state is State.LATE and self.now < _deadline(b, self.view)]
        if held:
            return self._wait(f"{len(held)} boards are late")
        return Decision(events=(Finished(at=self.now, result=result, why=why),))

    def _wait(self, why: str) -> Decision:
        boards = self.view.boards.values()
        moments = [self.view.soak_until]
        moments += [_deadline(b, self.view) for b in boards if b.state in IN_WORK]
        moments += [self._due(b) for b in boards if b.state is State.WAITING]
        return Decision(waits=why, until=min((t for t in moments if t is not None and t > self.now), default=None))


def _how_it_went(view: RolloutView) -> tuple[Result, str]:
    boards = [b for b in view.boards.values() if b.state is not State.SKIPPED]
    left = _counted([b for b in boards if b.state is not State.DONE])
    if not left:
        return Result.COMPLETE, f"{len(boards)} boards serve their release"
    done = sum(b.state is State.DONE for b in boards)
    return Result.INCOMPLETE, f"{done} of {len(boards)} boards serve their release; {left}"


def _aborted(view: RolloutView) -> tuple[Result, str]:
    return Result.ABORTED, f"boards stay as they are: {_counted(view.boards.values())}"


def _failed(view: RolloutView) -> str:
    return f"{view.failures} boards failed, {view.policy.max_failures} may; {_counted(view.boards.values())}"


def _counted(boards: Iterable[BoardView]) -> str:
    """Say how many boards are in which state."""
    counts = Counter(b.state for b in boards)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
