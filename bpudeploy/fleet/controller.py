"""The controller of a rollout: it writes down what is about to be done, has it done, and writes down how it ended.

It knows nothing that is not in the journal, so it may be killed at any moment: the next one reads, and goes on.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

from bpudeploy.boards.connect import CONNECT
from bpudeploy.effects.lock import owner
from bpudeploy.errors import BoardError, BpudeployError, ConnectionLost, Unreachable
from bpudeploy.fleet.decide import RETRY_S, decide
from bpudeploy.fleet.events import Controlled, Ended, Ending, Event, Job, Outcome, Reached, Tell
from bpudeploy.fleet.view import IN_WORK, RolloutView, after, view

Works = Callable[[Job, Tell], Outcome]
"""Does a piece of work on a board, in a thread of its own."""


class Book(Protocol):
    """Where events are kept: a ``Journal``."""

    def read_new(self) -> Sequence[Event]:
        """Return what was added since the last call; the first call returns all."""
        ...

    def append(self, *events: Event) -> None:
        """Add events; they are kept for good when this returns."""
        ...


class Crew(Protocol):
    """Those who do the work: ``Threads``."""

    def begin(self, job: Job) -> None:
        """Begin a piece of work, and return at once."""
        ...

    def hear(self, timeout: float) -> Sequence[Reached | Ended]:
        """Return what the workers say, as soon as one of them does, or nothing after ``timeout`` seconds.

        Who said something before is told that it is written down now, and goes on.
        """
        ...

    def close(self) -> None:
        """Nothing more is heard; workers that want to say something are told to stop."""
        ...


def _nobody(event: Event) -> None:
    pass


def _always(now: float) -> bool:
    return True


@dataclass(frozen=True)
class Terms:
    """What a controller goes by, beside the policy in the journal."""

    max_unavailable: int
    in_window: Callable[[float], bool] = _always
    """Whether boards may be updated at a time."""
    clock: Callable[[], float] = time.time
    retry_seconds: float = RETRY_S
    poll_seconds: float = 0.5
    """How soon an order is noticed."""
    grace_seconds: float = 30.0
    """How long work in progress may go on after Ctrl-C."""


def run_rollout(book: Book, crew: Crew, terms: Terms, tell: Callable[[Event], None] = _nobody) -> RolloutView:
    """Take a rollout up and bring it to its end; one that has ended is left alone.

    The book is to be this controller's alone (``journal.controlled``), but for orders.

    Args:
        tell: hears every event, those of earlier controllers first.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when what ran has ended or its time is over. A second one ends it at once.
    """
    return _Controller(book, crew, terms, tell).run()


class _Controller:
    def __init__(self, book: Book, crew: Crew, terms: Terms, tell: Callable[[Event], None]) -> None:
        self._book, self._crew, self._terms, self._tell = book, crew, terms, tell
        self._view: RolloutView | None = None

    def run(self) -> RolloutView:
        now = self._read()
        if now.result is not None:
            return now
        self._book.append(Controlled(at=self._terms.clock(), by=owner()))
        try:
            with _ctrl_c() as pressed:
                try:
                    while (now := self._read()).result is None:
                        if pressed.is_set():
                            raise KeyboardInterrupt
                        self._step(now)
                    return now
                except KeyboardInterrupt:
                    self._let_end()
                    raise
        finally:
            self._crew.close()

    def _read(self) -> RolloutView:
        """Return what is known, with all that was written since the last time: our own events, and orders."""
        new = self._book.read_new()
        self._view = view(new) if self._view is None else self._with(self._view, new)
        for event in new:
            self._say(event)
        return self._view

    def _say(self, event: Event) -> None:
        """Tell who listens; a listener that fails is told no more, and is no reason to stop."""
        try:
            self._tell(event)
        except Exception as error:
            self._tell = _nobody
            warnings.warn(f"the rollout goes on, but is shown no more: {error!r}", RuntimeWarning, stacklevel=2)

    @staticmethod
    def _with(known: RolloutView, new: Sequence[Event]) -> RolloutView:
        for event in new:
            known = after(known, event)
        return known

    def _step(self, known: RolloutView) -> None:
        terms, now = self._terms, self._terms.clock()
        decision = decide(known, now, terms.in_window(now), terms.max_unavailable, retry_seconds=terms.retry_seconds)
        if decision.events:
            self._book.append(*decision.events)
            for job in decision.start:
                self._crew.begin(job)
            return
        wait = terms.poll_seconds if decision.until is None else min(terms.poll_seconds, decision.until - now)
        self._book.append(*self._crew.hear(max(0.0, wait)))

    def _let_end(self) -> None:
        """Begin nothing more, write down what still ends, and what is left behind."""
        deadline = self._terms.clock() + self._terms.grace_seconds
        while (known := self._read()).result is None:
            running = [b for b in known.boards.values() if b.state in IN_WORK]
            if not running:
                return
            left = deadline - self._terms.clock()
            if left <= 0:
                at = self._terms.clock()
                what = {"ending": Ending.ABANDONED, "detail": "the controller was stopped"}
                self._book.append(*(Ended(at=at, board=b.place.board, work=b.work, **what) for b in running))
                return
            self._book.append(*self._crew.hear(min(left, self._terms.poll_seconds)))


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Only note a first Ctrl-C: as an exception, it could fall between what a worker says and its being written down.

    A second one is the exception. Where Ctrl-C means something else already, it goes on to mean that.
    """
    pressed = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)


class _Gone(BpudeployError):
    """The controller is gone."""


@dataclass(frozen=True)
class _Said:
    event: Reached | Ended
    written: threading.Event = field(default_factory=threading.Event)


class Threads:
    """Workers, each a thread that does not hold up the end of the process.

    There is one a board: a worker that hangs takes nobody's place, and as many as may be out of service are at work.
    """

    def __init__(self, works: Works, clock: Callable[[], float] = time.time) -> None:
        self._works, self._clock = works, clock
        self._said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._heard: list[_Said] = []
        self._closed = threading.Event()

    def begin(self, job: Job) -> None:
        """Begin a piece of work in a new thread."""
        threading.Thread(target=self._work, args=(job,), name=f"fleet {job.place.board}", daemon=True).start()

    def hear(self, timeout: float) -> tuple[Reached | Ended, ...]:
        """Return what the workers say; see ``Crew``."""
        for said in self._heard:
            said.written.set()
        self._heard.clear()
        try:
            self._heard.append(self._said.get(timeout=timeout))
            while True:
                self._heard.append(self._said.get_nowait())
        except queue.Empty:
            return tuple(said.event for said in self._heard)

    def close(self) -> None:
        """Let nobody go on whose words are not written down."""
        self._closed.set()
        for said in self._heard:
            said.written.set()

    def _work(self, job: Job) -> None:
        board, work = job.place.board, job.work

        def tell(step: str, detail: str = "", serves: str | None = None) -> None:
            said = _Said(Reached(at=self._clock(), board=board, step=step, detail=detail, serves=serves))
            self._said.put(said)
            while not said.written.wait(0.5):
                if self._closed.is_set():
                    break
            if self._closed.is_set():
                raise _Gone("the controller of the rollout is gone", hint="`bpudeploy fleet resume` goes on")

        try:
            outcome = self._works(job, tell)
        except Exception as error:  # whatever it is: it is one board's, and not the rollout's end
            outcome = outcome_of(error)
        self._said.put(_Said(Ended(at=self._clock(), board=board, work=work, **outcome.model_dump())))


def outcome_of(error: Exception) -> Outcome:
    """Return what became of a board whose work ended with an error: unless it did not get there, nobody knows."""
    detail = str(error) or type(error).__name__
    if not isinstance(error, BpudeployError):
        detail = f"{type(error).__name__}: {detail}"
    lost = isinstance(error, Unreachable | ConnectionLost)
    touched = not isinstance(error, BoardError) or error.step != CONNECT
    return Outcome(ending=Ending.UNREACHABLE if lost else Ending.FAILED, detail=detail, touched=touched)
