"""The controller of a rollout: it journals what is about to start, starts it, and journals how it ended.

It knows nothing that is not in the journal, so it may be killed at any time: the next controller replays the journal
and continues.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from bpudeploy.boards.connect import CONNECT
from bpudeploy.effects.lock import owner
from bpudeploy.errors import BoardError, BpudeployError, ConnectionLost, Unreachable
from bpudeploy.fleet.decide import RETRY_S, decide
from bpudeploy.fleet.events import (
    BoardEnded,
    BoardTask,
    ControllerStarted,
    Event,
    ReportProgress,
    StepReached,
    TaskResult,
    TaskStatus,
)
from bpudeploy.fleet.journal import Journal
from bpudeploy.fleet.view import IN_PROGRESS, RolloutView, apply, replay

Worker = Callable[[BoardTask, ReportProgress], TaskResult]
"""Runs one task, in a thread of its own."""


@dataclass(frozen=True)
class ControllerSettings:
    """Settings of a controller, besides the policy in the journal."""

    max_unavailable: int
    in_window: Callable[[float], bool] = lambda _: True
    """Whether boards may be updated at a given time."""
    clock: Callable[[], float] = time.time
    retry_seconds: float = RETRY_S
    poll_seconds: float = 0.5
    """Within how long a command is noticed."""
    grace_seconds: float = 30.0
    """How long running tasks may continue after Ctrl-C."""


def run_rollout(
    log: Journal, pool: WorkerThreads, settings: ControllerSettings, listener: Callable[[Event], None] = lambda _: None
) -> RolloutView:
    """Run a rollout to its end, from wherever it is; a finished one is left alone.

    Only this controller may write to the log (``journal.take_control``), except for commands.

    Args:
        listener: receives every event, starting with those of earlier controllers.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the running tasks have ended or the grace period is over. A second
            Ctrl-C ends it at once.
    """
    return _Controller(log, pool, settings, listener).run()


class _Controller:
    def __init__(
        self, log: Journal, pool: WorkerThreads, settings: ControllerSettings, listener: Callable[[Event], None]
    ) -> None:
        self._log, self._pool, self._settings, self._listener = log, pool, settings, listener
        self._view: RolloutView | None = None

    def run(self) -> RolloutView:
        view = self._read()
        if view.result is not None:
            return view
        self._log.append(ControllerStarted(at=self._settings.clock(), by=owner()))
        try:
            with _ctrl_c() as pressed:
                try:
                    while (view := self._read()).result is None:
                        if pressed.is_set():
                            raise KeyboardInterrupt
                        self._step(view)
                    return view
                except KeyboardInterrupt:
                    self._drain()
                    raise
        finally:
            self._pool.close()

    def _read(self) -> RolloutView:
        """Return the view after all events written since the last call, our own and commands."""
        for event in self._log.read_new():
            self._view = replay([event]) if self._view is None else apply(self._view, event)
            self._notify(event)
        assert self._view is not None
        return self._view

    def _notify(self, event: Event) -> None:
        """Pass an event to the listener; one that raises is dropped and does not stop the rollout."""
        try:
            self._listener(event)
        except Exception as error:
            self._listener = lambda _: None
            warnings.warn(
                f"the rollout continues, but its progress is no longer shown: {error!r}", RuntimeWarning, stacklevel=2
            )

    def _step(self, view: RolloutView) -> None:
        settings, now = self._settings, self._settings.clock()
        in_window = settings.in_window(now)
        decision = decide(view, now, in_window, settings.max_unavailable, retry_seconds=settings.retry_seconds)
        if decision.events:
            self._log.append(*decision.events)
            for task in decision.start:
                self._pool.start(task)
            return
        wait = settings.poll_seconds if decision.until is None else min(settings.poll_seconds, decision.until - now)
        self._log.append(*self._pool.poll(max(0.0, wait)))

    def _drain(self) -> None:
        """Start nothing more, journal the tasks that still end, and mark the rest as abandoned."""
        deadline = self._settings.clock() + self._settings.grace_seconds
        while (view := self._read()).result is None:
            running = [b for b in view.boards.values() if b.state in IN_PROGRESS]
            if not running:
                return
            now = self._settings.clock()
            if now >= deadline:
                result = {"ending": TaskStatus.ABANDONED, "detail": "the controller was stopped"}
                self._log.append(*(BoardEnded(at=now, board=b.plan.board, work=b.work, **result) for b in running))
                return
            self._log.append(*self._pool.poll(min(deadline - now, self._settings.poll_seconds)))


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag: as an exception it could strike between an event and its journal entry.

    A second Ctrl-C raises. If the process has its own handler for Ctrl-C, it stays in place.
    """
    pressed = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    default = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not default:
        yield pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, default)


class _ControllerGone(BpudeployError):
    """Raised in a worker whose controller has stopped."""


@dataclass(frozen=True)
class _Message:
    event: StepReached | BoardEnded
    written: threading.Event = field(default_factory=threading.Event)


class WorkerThreads:
    """Runs each task in a daemon thread of its own, so that a worker that hangs delays neither others nor the exit."""

    def __init__(self, worker: Worker, clock: Callable[[], float] = time.time) -> None:
        self._worker, self._clock = worker, clock
        self._messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._received: list[_Message] = []
        self._closed = threading.Event()

    def start(self, task: BoardTask) -> None:
        """Start a task in a new thread."""
        threading.Thread(target=self._run, args=(task,), name=f"fleet {task.plan.board}", daemon=True).start()

    def poll(self, timeout: float) -> tuple[StepReached | BoardEnded, ...]:
        """Return the workers' events as soon as there are any, or none after ``timeout`` seconds.

        The call also confirms that the events of the previous call are journaled; their workers then continue.
        """
        self._confirm()
        self._received.clear()
        try:
            self._received.append(self._messages.get(timeout=timeout))
            while True:
                self._received.append(self._messages.get_nowait())
        except queue.Empty:
            return tuple(message.event for message in self._received)

    def close(self) -> None:
        """Accept no more events; workers that report progress are told to stop."""
        self._closed.set()
        self._confirm()

    def _confirm(self) -> None:
        for message in self._received:
            message.written.set()

    def _run(self, task: BoardTask) -> None:
        board = task.plan.board

        def report(step: str, detail: str = "", serves: str | None = None) -> None:
            message = _Message(StepReached(at=self._clock(), board=board, step=step, detail=detail, serves=serves))
            self._messages.put(message)
            while not message.written.wait(0.5) and not self._closed.is_set():
                pass
            if self._closed.is_set():
                raise _ControllerGone(
                    "the controller of the rollout is gone", hint="`bpudeploy fleet resume` continues it"
                )

        try:
            result = self._worker(task, report)
        except Exception as error:  # an error on one board must not end the rollout
            result = result_of_error(error)
        self._messages.put(_Message(BoardEnded(at=self._clock(), board=board, work=task.work, **result.model_dump())))


def result_of_error(error: Exception) -> TaskResult:
    """Return the result of a task that raised; unless connecting failed, the board may have been changed."""
    detail = str(error) or type(error).__name__
    if not isinstance(error, BpudeployError):
        detail = f"{type(error).__name__}: {detail}"
    lost = isinstance(error, Unreachable | ConnectionLost)
    touched = not isinstance(error, BoardError) or error.step != CONNECT
    return TaskResult(ending=TaskStatus.UNREACHABLE if lost else TaskStatus.FAILED, detail=detail, touched=touched)
