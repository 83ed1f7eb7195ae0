"""A rollout as its reports tell it: what was done to each board and when, and what else happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bpudeploy.fleet.events import (
    Controlled,
    Ended,
    Ending,
    Event,
    Finished,
    Late,
    Order,
    Ordered,
    Planned,
    Reached,
    Started,
    WaveEnded,
    Work,
)
from bpudeploy.fleet.view import BoardView, RolloutView, State, view

_TONES = {
    State.FAILED: "bad",
    State.LATE: "bad",
    State.UNREACHABLE: "bad",
    State.DONE: "good",
    State.ROLLED_BACK: "odd",
    State.ROLLING_BACK: "odd",
    State.RESERVED: "odd",
}


@dataclass
class Spell:
    """One try at one work on one board."""

    work: Work
    attempt: int
    began: float
    ended: float | None = None
    """None: it goes on."""
    how: Ended | None = None
    """None: it goes on, or was lost with its controller."""
    late: float | None = None
    """Since when it takes longer than it may."""
    steps: list[tuple[float, Reached]] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.ended is not None and self.how is None

    def seconds(self, now: float) -> float:
        """Return for how long it was worked on, until ``now``; what is lost, until the last that was heard of it."""
        if self.lost:
            return max((at for at, _ in self.steps), default=self.began) - self.began
        return (now if self.ended is None else self.ended) - self.began


@dataclass(frozen=True)
class Moment:
    """Something that happened to the rollout as a whole."""

    at: float
    words: str
    by: str
    kind: str
    """wave, order, controller or end."""


@dataclass(frozen=True)
class Told:
    """One board: where it stands, and how it came there."""

    board: BoardView
    spells: tuple[Spell, ...]
    over: bool
    """The rollout has finished."""

    @property
    def words(self) -> str:
        return standing(self.board, self.over)

    @property
    def tone(self) -> str:
        return tone(self.board)

    @property
    def detail(self) -> str:
        """Why it stands there; of one that failed and went back, why it failed."""
        failed = [s.how for s in self.spells if s.how and s.work is Work.UPDATE and s.how.ending is Ending.FAILED]
        now = self.board.detail
        if self.board.failed and failed and failed[-1].detail != now:
            return f"{failed[-1].detail}; then: {now}" if now else failed[-1].detail
        return now

    @property
    def tries(self) -> int:
        """How often its update was begun."""
        return sum(s.work is Work.UPDATE for s in self.spells)

    def seconds(self, now: float) -> float:
        """Return for how long it was worked on, until ``now``."""
        return sum(s.seconds(now) for s in self.spells)


@dataclass(frozen=True)
class Chronicle:
    """A rollout, told. No time in it is before one that was written earlier, though a clock was set back."""

    view: RolloutView
    boards: tuple[Told, ...]
    """In the order of the plan."""
    moments: tuple[Moment, ...]
    pauses: tuple[tuple[float, float], ...]
    wave_ends: dict[int, float]
    last: float

    @property
    def planned(self) -> Planned:
        return self.view.planned

    @property
    def seconds(self) -> float:
        return self.last - self.planned.at

    @property
    def bytes_sent(self) -> int:
        return sum(b.board.bytes_sent for b in self.boards)

    @property
    def waves(self) -> dict[int, list[Told]]:
        """The boards of each wave; those that are skipped are in none."""
        found: dict[int, list[Told]] = {wave: [] for wave in range(self.view.waves)}
        for told in self.boards:
            if told.board.state is not State.SKIPPED:
                found[told.board.place.wave].append(told)
        return found

    @property
    def skipped(self) -> list[Told]:
        return [told for told in self.boards if told.board.state is State.SKIPPED]

    def began(self, wave: int) -> float | None:
        """Return when the first board of a wave was begun."""
        return min((t.spells[0].began for t in self.waves[wave] if t.spells), default=None)

    @property
    def result(self) -> str:
        """How it ended, or where it stands."""
        return self.view.result.value if self.view.result is not None else self.view.phase(self.last).value


def standing(board: BoardView, over: bool) -> str:
    """Return in words where a board stands; ``over``: in a rollout that has finished."""
    if board.state is State.ROLLED_BACK and board.failed:
        return "failed, rolled back"
    if board.state is State.WAITING and over:
        return "not finished" if board.attempts else "not begun"
    return board.state.value


def tone(board: BoardView) -> str:
    """Return ``good``, ``bad``, ``odd``, or nothing."""
    return "bad" if board.failed else _TONES.get(board.state, "")


def standings(boards: Iterable[Told]) -> dict[str, int]:
    """Return how many boards stand where, in the order of the states."""
    counted = Counter((list(State).index(t.board.state), t.words) for t in boards)
    return {words: counted[order, words] for order, words in sorted(counted)}


def chronicle(events: Sequence[Event]) -> Chronicle:
    """Return what ``events`` tell, from the first one on; it need not be over.

    Raises:
        ValueError: the first event does not say what the rollout is.
    """
    known, teller = view(events), _Teller()
    for event in events:
        teller.hear(event)
    over = known.result is not None
    return Chronicle(
        view=known,
        boards=tuple(Told(b, tuple(teller.spells.get(name, ())), over) for name, b in known.boards.items()),
        moments=tuple(teller.moments),
        pauses=tuple((a, teller.now if b is None else b) for a, b in teller.pauses),
        wave_ends=teller.wave_ends,
        last=teller.now,
    )


class _Teller:
    """Keeps the times that a view of the present has no use for."""

    def __init__(self) -> None:
        self.spells: dict[str, list[Spell]] = {}
        self.moments: list[Moment] = []
        self.pauses: list[tuple[float, float | None]] = []
        self.wave_ends: dict[int, float] = {}
        self.controllers = 0
        self.now = float("-inf")

    def hear(self, event: Event) -> None:
        self.now = at = max(self.now, event.at)
        match event:
            case Planned():
                pass
            case Started() | Reached() | Late() | Ended():
                self._board(event, at)
            case Controlled(by=by):
                self._cut_off(at)
                self.controllers += 1
                words = "the controller starts" if self.controllers == 1 else "another controller takes over"
                self.moments.append(Moment(at, words, by, "controller"))
            case Ordered():
                self._order(event, at)
            case WaveEnded(wave=wave):
                self.wave_ends[wave] = at
                self.moments.append(Moment(at, f"wave {wave + 1} ends", "", "wave"))
            case Finished(result=result):
                self._cut_off(at)
                self.moments.append(Moment(at, result.value, "", "end"))

    def _board(self, event: Started | Reached | Late | Ended, at: float) -> None:
        spells = self.spells.setdefault(event.board, [])
        if isinstance(event, Started):
            spells.append(Spell(event.work, event.attempt, at))
            return
        if not spells or spells[-1].ended is not None:
            if not isinstance(event, Ended):
                return
            spells.append(Spell(event.work, 0, at))  # nobody said that it began
        match event:
            case Reached():
                spells[-1].steps.append((at, event))
            case Late():
                spells[-1].late = at
            case Ended():
                spells[-1].ended, spells[-1].how = at, event

    def _cut_off(self, at: float) -> None:
        for spells in self.spells.values():
            if spells and spells[-1].ended is None:
                spells[-1].ended = at

    def _order(self, event: Ordered, at: float) -> None:
        paused = bool(self.pauses) and self.pauses[-1][1] is None
        if event.order is Order.PAUSE and not paused:
            self.pauses.append((at, None))
        elif event.order is Order.RESUME and paused:
            self.pauses[-1] = (self.pauses[-1][0], at)
        said = {Order.PAUSE: "paused", Order.RESUME: "resumed", Order.ABORT: "aborted", Order.APPROVE: "approved"}
        which = "" if event.wave is None else f", wave {event.wave + 1}"
        self.moments.append(Moment(at, said[event.order] + which, event.by, "order"))


def utc(at: float) -> datetime:
    """Return a time of an event."""
    return datetime.fromtimestamp(at, UTC)


def lasting(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def roughly(seconds: float) -> str:
    """Return a duration that is mostly a round one: 15 min, 1 h."""
    said = lasting(seconds)
    for rest in (" 00 s", " 00 min", " 00 h", ".0 s"):
        if said.endswith(rest):
            return said.removesuffix(rest) + (" s" if rest == ".0 s" else "")
    return said
