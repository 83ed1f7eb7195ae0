"""A fleet that exists in memory: boards with fates, a clock that jumps, and workers who die with their controller.

Only time, the boards and the disk are simulated. The controller, ``decide`` and ``view`` are the real ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator, Sequence

from bpudeploy.fleet.events import Ended, Ending, Event, Job, Order, Ordered, Outcome, Reached, Work
from bpudeploy.fleet.view import Phase
from tests.fleet.witness import NEW, Fate, SimBoard, Witness


class Killed(BaseException):
    """The controller's process is no more."""


Life = Generator[float | Reached, None, Outcome]


class SimBook:
    """A journal in memory, that the controller may be killed over."""

    def __init__(self, witness: Witness, kills: Callable[[], bool]) -> None:
        self.witness, self._kills, self.read = witness, kills, 0

    def read_new(self) -> Sequence[Event]:
        new = self.witness.events[self.read :]
        self.read = len(self.witness.events)
        return new

    def append(self, *events: Event) -> None:
        for event in events:
            if self._kills():
                raise Killed
            self.witness.sees(event)
        if self._kills():
            raise Killed


class World:
    """Time, the boards, and what is going to happen."""

    def __init__(self, rng: random.Random, witness: Witness) -> None:
        self.rng, self.witness, self.now = rng, witness, 1000.0
        self.agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._number = itertools.count()

    def clock(self) -> float:
        return self.now

    def at(self, when: float, then: Callable[[], object]) -> None:
        heapq.heappush(self.agenda, (when, next(self._number), then))

    def goes_down(self, board: SimBoard, seconds: float) -> None:
        """It is out of service for so long because of what we did."""
        board.broken, board.down_until = True, self.now + seconds
        if seconds < 1e8:
            self.at(board.down_until, lambda: self._up(board))

    def _up(self, board: SimBoard) -> None:
        if self.now >= board.down_until:
            board.broken = False


class SimCrew:
    """Workers of one controller; they die with it."""

    def __init__(self, world: World, kills: Callable[[], bool], interrupts: Callable[[], bool]) -> None:
        self.world, self._kills, self._interrupts = world, kills, interrupts
        self.workers: dict[str, Life] = {}
        self._jobs: dict[str, Job] = {}
        self._said: list[Reached | Ended] = []
        self._to_go_on: list[str] = []
        self.dead = False
        self._idle = 0

    def begin(self, job: Job) -> None:
        if self._kills():
            raise Killed
        name = job.place.board
        self.world.witness.begins(job, list(self.workers))
        board = self.world.witness.boards[name]
        self.workers[name] = life(self.world, board, job)
        self._jobs[name] = job
        self._on(name)
        self.world.witness.checks(list(self.workers))

    def hear(self, timeout: float) -> tuple[Reached | Ended, ...]:
        if self._kills():
            raise Killed
        if self._interrupts():
            raise KeyboardInterrupt
        going, self._to_go_on = self._to_go_on, []
        for name in going:
            self._on(name)
        world, until = self.world, self.world.now + timeout
        if not self._said:
            assert world.agenda or timeout < 1e9, "it waits for what never comes"
            if world.agenda and world.agenda[0][0] <= until:
                when, _, then = heapq.heappop(world.agenda)
                world.now = max(world.now, when)
                then()
            else:
                world.now = until
        said, self._said = tuple(self._said), []
        self._idle = 0 if said else self._idle + 1
        assert self._idle < 300, "it waits for what never comes"
        return said

    def close(self) -> None:
        """The process ends: what runs on boards may go on there for a moment, unheard."""
        self.dead = True
        for name in self.workers:
            board = self.world.witness.boards[name]
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
            outcome: Outcome = end.value
            self._said.append(Ended(at=self.world.now, board=name, work=self._jobs[name].work, **outcome.model_dump()))
            return
        if isinstance(what, Reached):
            self._said.append(what)
            self._to_go_on.append(name)  # not before it is written down
        else:
            self.world.at(self.world.now + what, lambda: self._on(name))


def life(world: World, board: SimBoard, job: Job) -> Life:
    """What a worker does, and meets, on a board."""
    rng = world.rng

    def reached(step: str, serves: str | None = None) -> Reached:
        return Reached(at=world.now, board=board.name, step=step, serves=serves)

    yield rng.uniform(0.1, 3)
    if board.fate is Fate.WRONG_KEY or world.now < board.down_until:
        yield rng.choice([0.0, 10.0])
        return Outcome(ending=Ending.UNREACHABLE, touched=False)
    if world.now < board.reserved_until:
        return Outcome(ending=Ending.RESERVED, touched=False)
    yield reached("connect", board.serves)
    if job.work is Work.ROLLBACK:
        return (yield from _goes_back(world, board, job))
    before = board.serves
    if board.fate in (Fate.REFUSES, Fate.FULL):
        yield 0.2
        return Outcome(ending=Ending.FAILED, touched=False, serves=before if board.fate is Fate.FULL else None)
    if board.fate is Fate.STALLS:
        yield rng.choice([150.0, 190.0, 260.0, 1e7])
    yield rng.uniform(1, 90) if board.fate is Fate.SLOW else rng.uniform(0.5, 5)
    yield reached("push")
    changed = before != NEW
    if changed:
        board.activating = True
        yield rng.uniform(0.1, 2)
        if board.fate is Fate.DIES_BEFORE:
            return (yield from _dies(world, board))
        board.activate()
        if board.fate is Fate.DIES_AFTER:
            return (yield from _dies(world, board))
        yield reached("activate", NEW)
        board.activating = False
        yield rng.uniform(0.1, 4)
    if board.fate in (Fate.BAD_GATE, Fate.DIES_GOING_BACK) and changed:
        board.activating = board.going_back = True
        yield reached("go back")
        board.serves, board.gone_back = before, board.gone_back + 1
        yield 0.5
        if board.fate is Fate.DIES_GOING_BACK:
            yield from _dies(world, board)
            return Outcome(ending=Ending.FAILED, before=before)
        board.activating = board.going_back = False
        return Outcome(ending=Ending.FAILED, serves=before, before=before)
    return Outcome(ending=Ending.DONE, changed=changed, serves=NEW, before=before)


def _goes_back(world: World, board: SimBoard, job: Job) -> Life:
    if board.serves == job.before:
        return Outcome(ending=Ending.DONE, serves=board.serves)
    assert job.before is not None, "nobody knows what it goes back to"
    board.activating = board.going_back = True
    yield world.rng.choice([0.3, 0.3, 3, 200])
    if board.fate is Fate.DIES_AFTER and world.rng.random() < 0.5:
        return (yield from _dies(world, board))
    board.serves = job.before
    board.activating = board.going_back = False
    return Outcome(ending=Ending.DONE, changed=True, serves=board.serves)


def _dies(world: World, board: SimBoard) -> Life:
    world.goes_down(board, world.rng.choice([20.0, 45.0, 300.0, 1e9]))
    board.activating = board.going_back = False
    if board.fate is not Fate.DIES_GOING_BACK:
        board.fate = world.rng.choice([board.fate, Fate.WELL])
    yield 15.0
    return Outcome(ending=Ending.UNREACHABLE, detail="the connection was lost")


def operator(world: World, book: Callable[[Ordered], None], phase: Callable[[], tuple[Phase, int]]) -> None:
    """Give an order or two, and what is waited for in the end."""
    rng, orders = world.rng, iter(world.rng.choices([None, *3 * [Order.PAUSE], Order.RESUME, Order.ABORT], k=2))

    def comes_by() -> None:
        now, wave = phase()
        order, of = None, None
        if now is Phase.FINISHED:
            return
        if now is Phase.APPROVAL:
            order, of = Order.APPROVE, rng.choice([None, wave])
        elif now is Phase.PAUSED:
            order = Order.RESUME
        elif rng.random() < 0.2:
            order = next(orders, None)
        if order is not None:
            book(Ordered(at=world.now, order=order, by="somebody", wave=of))
        world.at(world.now + rng.expovariate(1 / 60), comes_by)

    world.at(world.now + rng.expovariate(1 / 60), comes_by)
