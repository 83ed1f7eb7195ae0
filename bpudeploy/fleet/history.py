"""The history of a rollout for its reports: the attempts on each board, and what happened to the whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, chain

from bpudeploy.digest import short
from bpudeploy.fleet.events import (
    BoardEnded,
    BoardLate,
    BoardStarted,
    CommandGiven,
    ControllerStarted,
    Event,
    RolloutCommand,
    RolloutFinished,
    RolloutPlanned,
    StepReached,
    TaskKind,
    TaskStatus,
    WaveEnded,
)
from bpudeploy.fleet.view import IN_PROGRESS, BoardState, BoardView, RolloutView, replay
from bpudeploy.results.drawing import format_duration

_TONES = {
    BoardState.FAILED: "bad",
    BoardState.LATE: "bad",
    BoardState.UNREACHABLE: "bad",
    BoardState.DONE: "good",
    BoardState.ROLLED_BACK: "odd",
    BoardState.ROLLING_BACK: "odd",
    BoardState.RESERVED: "odd",
}
_COMMAND_LABELS = {
    RolloutCommand.PAUSE: "paused",
    RolloutCommand.RESUME: "resumed",
    RolloutCommand.ABORT: "aborted",
    RolloutCommand.APPROVE: "approved",
}


@dataclass
class Attempt:
    """One attempt at a task on a board."""

    work: TaskKind
    number: int
    began: float
    ended: float | None = None
    """None: still running."""
    result: BoardEnded | None = None
    """None: still running, or lost with its controller."""
    late: float | None = None
    """When it exceeded its time limit."""
    steps: list[tuple[float, StepReached]] = field(default_factory=list)

    @property
    def status(self) -> TaskStatus | None:
        return None if self.result is None else self.result.ending

    @property
    def detail(self) -> str:
        return "" if self.result is None else self.result.detail

    @property
    def lost(self) -> bool:
        """Whether its controller was killed before it ended."""
        return self.ended is not None and self.result is None

    def end(self, now: float) -> float:
        """Return when it ended; ``now`` if it is still running."""
        return now if self.ended is None else self.ended

    def seconds(self, now: float) -> float:
        """Return how long it took until ``now``; a lost one counts until its last step."""
        if self.lost:
            return max((at for at, _ in self.steps), default=self.began) - self.began
        return self.end(now) - self.began


@dataclass(frozen=True)
class Milestone:
    """Something that happened to the rollout as a whole."""

    at: float
    label: str
    by: str
    kind: str
    """wave, order, controller or end."""


@dataclass(frozen=True)
class BoardHistory:
    """The state of one board, and the attempts that led to it."""

    board: BoardView
    attempts: tuple[Attempt, ...]
    finished: bool
    """The rollout has finished."""

    @property
    def label(self) -> str:
        return state_label(self.board, self.finished)

    @property
    def tone(self) -> str:
        return tone(self.board)

    @property
    def detail(self) -> str:
        """Why the board is in its state; for one that failed and was rolled back, why it failed."""
        updates = [a for a in self.attempts if a.work is TaskKind.UPDATE]
        failed = [a.detail for a in updates if a.status is TaskStatus.FAILED]
        now = self.board.detail
        if self.board.failed and failed and failed[-1] != now:
            return f"{failed[-1]}; then: {now}" if now else failed[-1]
        return now

    @property
    def updates(self) -> int:
        """How often its update was started."""
        return sum(a.work is TaskKind.UPDATE for a in self.attempts)

    @property
    def differs(self) -> bool:
        """Whether a task ended and the board does not serve the planned release."""
        tried = bool(self.attempts) and self.board.state not in IN_PROGRESS
        return tried and self.board.serves != self.board.plan.release

    def seconds(self, now: float) -> float:
        """Return how long all its attempts took until ``now``."""
        return sum(a.seconds(now) for a in self.attempts)


@dataclass(frozen=True)
class RolloutHistory:
    """The history of a rollout. Its times never decrease, even if a clock was set back."""

    view: RolloutView
    boards: tuple[BoardHistory, ...]
    """In the order of the plan."""
    milestones: tuple[Milestone, ...]
    pauses: tuple[tuple[float, float], ...]
    wave_ends: dict[int, float]
    last: float
    """The time of the last event."""

    @property
    def planned(self) -> RolloutPlanned:
        return self.view.planned

    @property
    def seconds(self) -> float:
        return self.last - self.planned.at

    @property
    def bytes_sent(self) -> int:
        return sum(b.board.bytes_sent for b in self.boards)

    @property
    def waves(self) -> dict[int, list[BoardHistory]]:
        """The boards of each wave, without skipped ones."""
        waves: dict[int, list[BoardHistory]] = {wave: [] for wave in range(self.view.waves)}
        for board in self.boards:
            if board.board.state is not BoardState.SKIPPED:
                waves[board.board.plan.wave].append(board)
        return waves

    @property
    def skipped(self) -> list[BoardHistory]:
        return [board for board in self.boards if board.board.state is BoardState.SKIPPED]

    def began(self, wave: int) -> float | None:
        """Return when the first board of a wave was started."""
        return min((b.attempts[0].began for b in self.waves[wave] if b.attempts), default=None)

    @property
    def result(self) -> str:
        """The result, or the phase of a rollout that has not finished."""
        return self.view.result.value if self.view.result is not None else self.view.phase(self.last).value


def state_label(board: BoardView, finished: bool) -> str:
    """Return the state of a board as shown to users; ``finished``: the rollout has finished."""
    if board.state is BoardState.ROLLED_BACK and board.failed:
        return "failed, rolled back"
    if board.state is BoardState.WAITING and finished:
        return "not finished" if board.attempts else "not begun"
    return board.state.value


def tone(board: BoardView) -> str:
    """Return how a board's state is coloured: ``good``, ``bad``, ``odd`` or the empty string."""
    return "bad" if board.failed else _TONES.get(board.state, "")


def count_states(boards: Iterable[BoardView], finished: bool) -> dict[str, int]:
    """Return how many boards have each ``state_label``, in the order of the states."""
    states = list(BoardState)
    counts = Counter((states.index(board.state), state_label(board, finished)) for board in boards)
    return {label: counts[order, label] for order, label in sorted(counts)}


def rollout_history(events: Sequence[Event]) -> RolloutHistory:
    """Return the history that the first events of a journal tell, finished or not.

    Raises:
        ValueError: the first event is not ``RolloutPlanned``.
    """
    view = replay(events)
    timed = list(zip(accumulate((event.at for event in events), max), events, strict=True))
    attempts, finished = _attempts(timed), view.result is not None
    return RolloutHistory(
        view=view,
        boards=tuple(BoardHistory(b, tuple(attempts[name]), finished) for name, b in view.boards.items()),
        milestones=tuple(_milestones(timed)),
        pauses=tuple(_pauses(timed)),
        wave_ends={event.wave: at for at, event in timed if isinstance(event, WaveEnded)},
        last=timed[-1][0],
    )


def _attempts(timed: Sequence[tuple[float, Event]]) -> defaultdict[str, list[Attempt]]:
    """Return the attempts on each board; those that a controller leaves behind end when the next one starts."""
    attempts = defaultdict[str, list[Attempt]](list)
    for at, event in timed:
        match event:
            case ControllerStarted() | RolloutFinished():
                for attempt in chain.from_iterable(attempts.values()):
                    attempt.ended = attempt.end(at)
            case BoardStarted():
                attempts[event.board].append(Attempt(event.work, event.attempt, at))
            case StepReached() | BoardLate() | BoardEnded():
                current = next((a for a in attempts[event.board][-1:] if a.ended is None), None)
                if current is None and isinstance(event, BoardEnded):  # its start is not in the journal
                    current = Attempt(event.work, 0, at)
                    attempts[event.board].append(current)
                if current is not None and isinstance(event, StepReached):
                    current.steps.append((at, event))
                elif current is not None and isinstance(event, BoardLate):
                    current.late = at
                elif current is not None and isinstance(event, BoardEnded):
                    current.ended, current.result = at, event
    return attempts


def _milestones(timed: Sequence[tuple[float, Event]]) -> Iterator[Milestone]:
    label = "controller started"
    for at, event in timed:
        match event:
            case ControllerStarted():
                yield Milestone(at, label, event.by, "controller")
                label = "another controller took over"
            case CommandGiven():
                wave = "" if event.wave is None else f", wave {event.wave + 1}"
                yield Milestone(at, _COMMAND_LABELS[event.order] + wave, event.by, "order")
            case WaveEnded():
                yield Milestone(at, f"wave {event.wave + 1} ended", "", "wave")
            case RolloutFinished():
                yield Milestone(at, event.result.value, "", "end")


def _pauses(timed: Sequence[tuple[float, Event]]) -> Iterator[tuple[float, float]]:
    since = None
    for at, event in timed:
        order = event.order if isinstance(event, CommandGiven) else None
        if order is RolloutCommand.PAUSE and since is None:
            since = at
        elif order is RolloutCommand.RESUME and since is not None:
            yield since, at
            since = None
    if since is not None:
        yield since, timed[-1][0]


def utc(at: float) -> datetime:
    """Return the time of an event in UTC."""
    return datetime.fromtimestamp(at, UTC)


def release_label(digest: str | None) -> str:
    """Return a release as shown to users: ``unknown``, ``none`` for the empty string, or its short digest."""
    return "unknown" if digest is None else short(digest) or "none"


def format_round_duration(seconds: float) -> str:
    """Return a duration without a second unit that is zero: ``15 min``, ``1 h``."""
    text = format_duration(seconds)
    for rest in (" 00 s", " 00 min", " 00 h"):
        text = text.removesuffix(rest)
    return text.replace(".0 s", " s")
