"""A fleet that exists in memory: boards with faults, a simulated clock, and workers that die with their controller.

Only time, the boards and the disk are simulated. The controller, ``decide`` and ``view`` are the real ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator

from bpudeploy.fleet.controller import WorkerThreads
from bpudeploy.fleet.events import (
    BoardEnded,
    BoardTask,
    CommandGiven,
    Event,
    RolloutCommand,
    StepReached,
    TaskKind,
    TaskResult,
    TaskStatus,
)
from bpudeploy.fleet.journal import Journal
from bpudeploy.fleet.view import Phase
from tests.fleet.oracle import NEW, Fault, Oracle, SimBoard


class Killed(BaseException):
    """The controller process was killed."""


Life = Generator[float | StepReached, None, TaskResult]


class SimEventLog(Journal):
    """A journal in memory; the controller may be killed at each write."""

    def __init__(self, oracle: Oracle, kills: Callable[[], bool]) -> None:
        self.oracle, self._kills, self.read = oracle, kills, 0

    def read_new(self) -> tuple[Event, ...]:
        new = tuple(self.oracle.events[self.read :])
        self.read = len(self.oracle.events)
        return new

    def append(self, *events: Event) -> None:
        for event in events:
            if self._kills():
                raise Killed
            self.oracle.record(event)
        if self._kills():
            raise Killed


class World:
    """Simulated time and scheduled events."""

    def __init__(self, rng: random.Random, oracle: Oracle) -> None:
        self.rng, self.oracle, self.now = rng, oracle, 1000.0
        self.agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._number = itertools.count()

    def clock(self) -> float:
        return self.now

    def at(self, when: float, then: Callable[[], object]) -> None:
        heapq.heappush(self.agenda, (when, next(self._number), then))

    def goes_down(self, board: SimBoard, seconds: float) -> None:
        """Take a board out of service for some seconds because of the rollout."""
        board.broken, board.down_until = True, self.now + seconds
        if seconds < 1e8:
            self.at(board.down_until, lambda: self._up(board))

    def _up(self, board: SimBoard) -> None:
        if self.now >= board.down_until:
            board.broken = False


class SimWorkers(WorkerThreads):
    """The workers of one controller; they die with it."""

    def __init__(self, world: World, kills: Callable[[], bool], interrupts: Callable[[], bool]) -> None:
        self.world, self._kills, self._interrupts = world, kills, interrupts
        self.workers: dict[str, Life] = {}
        self._tasks: dict[str, BoardTask] = {}
        self._events: list[StepReached | BoardEnded] = []
        self._confirmed: list[str] = []
        self.dead = False
        self._idle = 0

    def start(self, task: BoardTask) -> None:
        if self._kills():
            raise Killed
        name = task.plan.board
        self.world.oracle.check_start(task, list(self.workers))
        board = self.world.oracle.boards[name]
        self.workers[name] = life(self.world, board, task)
        self._tasks[name] = task
        self._on(name)
        self.world.oracle.check_always(list(self.workers))

    def poll(self, timeout: float) -> tuple[StepReached | BoardEnded, ...]:
        if self._kills():
            raise Killed
        if self._interrupts():
            raise KeyboardInterrupt
        going, self._confirmed = self._confirmed, []
        for name in going:
            self._on(name)
        world, until = self.world, self.world.now + timeout
        if not self._events:
            assert world.agenda or timeout < 1e9, "it waits forever"
            if world.agenda and world.agenda[0][0] <= until:
                when, _, then = heapq.heappop(world.agenda)
                world.now = max(world.now, when)
                then()
            else:
                world.now = until
        events, self._events = tuple(self._events), []
        self._idle = 0 if events else self._idle + 1
        assert self._idle < 300, "it waits forever"
        return events

    def close(self) -> None:
        """The process ends: what runs on boards may continue there for a moment, unnoticed."""
        self.dead = True
        for name in self.workers:
            board = self.world.oracle.boards[name]
            if board.activating:
                if self.world.rng.random() < 0.5 and not board.going_back and board.serves != NEW:
                    board.activate()
                self.world.goes_down(board, self.world.rng.choice([0.5, 5, 100]))
            board.activating = board.going_back = False
        self.workers.clear()

    def _on(self, name: str) -> None:
        if self.dead or name not in self.workers:
            return
        try:
            what = next(self.workers[name])
        except StopIteration as end:
            del self.workers[name]
            outcome: TaskResult = end.value
            self._events.append(
                BoardEnded(at=self.world.now, board=name, work=self._tasks[name].work, **outcome.model_dump())
            )
            return
        if isinstance(what, StepReached):
            self._events.append(what)
            self._confirmed.append(name)  # only after it is journaled
        else:
            self.world.at(self.world.now + what, lambda: self._on(name))


def life(world: World, board: SimBoard, task: BoardTask) -> Life:
    """Run a task on a board, including its faults."""
    rng = world.rng

    def reached(step: str, serves: str | None = None) -> StepReached:
        return StepReached(at=world.now, board=board.name, step=step, serves=serves)

    yield rng.uniform(0.1, 3)
    if board.fault is Fault.WRONG_KEY or world.now < board.down_until:
        yield rng.choice([0.0, 10.0])
        return TaskResult(ending=TaskStatus.UNREACHABLE, touched=False)
    if world.now < board.reserved_until:
        return TaskResult(ending=TaskStatus.RESERVED, touched=False)
    yield reached("connect", board.serves)
    if task.work is TaskKind.ROLLBACK:
        return (yield from _roll_back(world, board, task))
    before = board.serves
    if board.fault in (Fault.REFUSES, Fault.FULL):
        yield 0.2
        return TaskResult(ending=TaskStatus.FAILED, touched=False, serves=before if board.fault is Fault.FULL else None)
    if board.fault is Fault.STALLS:
        yield rng.choice([150.0, 190.0, 260.0, 1e7])
    yield rng.uniform(1, 90) if board.fault is Fault.SLOW else rng.uniform(0.5, 5)
    yield reached("push")
    changed = before != NEW
    if changed:
        board.activating = True
        yield rng.uniform(0.1, 2)
        if board.fault is Fault.DIES_BEFORE:
            return (yield from _dies(world, board))
        board.activate()
        if board.fault is Fault.DIES_AFTER:
            return (yield from _dies(world, board))
        yield reached("activate", NEW)
        board.activating = False
        yield rng.uniform(0.1, 4)
    if board.fault in (Fault.BAD_GATE, Fault.DIES_GOING_BACK) and changed:
        board.activating = board.going_back = True
        yield reached("go back")
        board.serves, board.gone_back = before, board.gone_back + 1
        yield 0.5
        if board.fault is Fault.DIES_GOING_BACK:
            yield from _dies(world, board)
            return TaskResult(ending=TaskStatus.FAILED, before=before)
        board.activating = board.going_back = False
        return TaskResult(ending=TaskStatus.FAILED, serves=before, before=before)
    return TaskResult(ending=TaskStatus.DONE, changed=changed, serves=NEW, before=before)


def _roll_back(world: World, board: SimBoard, task: BoardTask) -> Life:
    if board.serves == task.before:
        return TaskResult(ending=TaskStatus.DONE, serves=board.serves)
    assert task.before is not None, "the release to restore is unknown"
    board.activating = board.going_back = True
    yield world.rng.choice([0.3, 0.3, 3, 200])
    if board.fault is Fault.DIES_AFTER and world.rng.random() < 0.5:
        return (yield from _dies(world, board))
    board.serves = task.before
    board.activating = board.going_back = False
    return TaskResult(ending=TaskStatus.DONE, changed=True, serves=board.serves)


def _dies(world: World, board: SimBoard) -> Life:
    world.goes_down(board, world.rng.choice([20.0, 45.0, 300.0, 1e9]))
    board.activating = board.going_back = False
    if board.fault is not Fault.DIES_GOING_BACK:
        board.fault = world.rng.choice([board.fault, Fault.WELL])
    yield 15.0
    return TaskResult(ending=TaskStatus.UNREACHABLE, detail="the connection was lost")


def operator(world: World, give: Callable[[CommandGiven], None], phase: Callable[[], tuple[Phase, int]]) -> None:
    """Give a command or two, and the approvals that are waited for."""
    rng, orders = (
        world.rng,
        iter(world.rng.choices([None, *3 * [RolloutCommand.PAUSE], RolloutCommand.RESUME, RolloutCommand.ABORT], k=2)),
    )

    def comes_by() -> None:
        now, wave = phase()
        order, of = None, None
        if now is Phase.FINISHED:
            return
        if now is Phase.APPROVAL:
            order, of = RolloutCommand.APPROVE, rng.choice([None, wave])
        elif now is Phase.PAUSED:
            order = RolloutCommand.RESUME
        elif rng.random() < 0.2:
            order = next(orders, None)
        if order is not None:
            give(CommandGiven(at=world.now, order=order, by="somebody", wave=of))
        world.at(world.now + rng.expovariate(1 / 60), comes_by)

    world.at(world.now + rng.expovariate(1 / 60), comes_by)
