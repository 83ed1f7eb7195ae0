"""Thousands of random rollouts over boards with all kinds of faults and controllers killed at any time."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field

from bpudeploy.fleet.controller import ControllerSettings, run_rollout
from bpudeploy.fleet.events import BoardEnded, BoardLate, CommandGiven, Event, RolloutPlanned
from bpudeploy.fleet.view import Phase, replay
from bpudeploy.spec.fleet import OnFailure, Reserved, RolloutSpec
from tests.fleet.oracle import NEW, Fault, Oracle, SimBoard, board_plan
from tests.fleet.simulated import Killed, SimEventLog, SimWorkers, World, operator

SCHEDULES = int(os.environ.get("BPUDEPLOY_SCHEDULES", "2000"))
FIRST = int(os.environ.get("BPUDEPLOY_FIRST_SCHEDULE", "0"))
BOARD_SECONDS = 120.0


@dataclass
class Schedule:
    """One rollout, all of it drawn from a seed."""

    seed: int
    kills: int = 0
    interrupts: int = 0
    controllers: int = 0
    oracle: Oracle = field(init=False)

    def run(self) -> None:
        rng = random.Random(self.seed)
        self.oracle = oracle = _plan(rng)
        world = World(rng, oracle)
        oracle.record(oracle.planned)
        chance = rng.choice([0, 0, 0.01, 0.1])
        left = rng.choice([1, 3, 10])

        def kills() -> bool:
            struck = chance > 0 and self.kills < left and rng.random() < chance
            self.kills += struck
            return struck

        def interrupts() -> bool:
            struck = chance > 0 and self.interrupts < 2 and rng.random() < chance / 5
            self.interrupts += struck
            return struck

        def phase() -> tuple[Phase, int]:
            assert oracle.seen is not None
            return oracle.seen.phase(world.now), oracle.seen.wave

        if oracle.planned.approvals or rng.random() < 0.5:
            operator(world, oracle.record, phase)
        if oracle.in_window(0.0) is False:  # there are windows: they open and close by the clock
            _ticks(world)
        settings = ControllerSettings(oracle.max_unavailable, oracle.in_window, world.clock, poll_seconds=1e10)
        while oracle.seen is not None and oracle.seen.result is None:
            self.controllers += 1
            assert self.controllers < 100, "resuming never ends"
            log, pool = SimEventLog(oracle, kills), SimWorkers(world, kills, interrupts)
            try:
                run_rollout(log, pool, settings)
            except (Killed, KeyboardInterrupt):
                pool.close()
                world.now += rng.choice([0.0, 1.0, 50.0])
        if self.seed % 10:
            return
        events = list(oracle.events)
        assert replay(events) == oracle.seen
        run_rollout(SimEventLog(oracle, kills), SimWorkers(world, kills, interrupts), settings)
        assert oracle.events == events, "an ended rollout is left alone"


def _ticks(world: World) -> None:
    def tick() -> None:
        if world.now < 1e6:
            world.at(world.now + 100, tick)

    world.at(world.now, tick)


def _plan(rng: random.Random) -> Oracle:
    count, waves = rng.randint(3, rng.choice([8, 8, 40])), rng.randint(1, 4)
    trouble = rng.choice([0.0, 0.1, 0.3, 0.8])
    names = [f"b{i}" for i in range(count)]
    plans = [board_plan(name, rng.randrange(waves), skipped=rng.random() < 0.05) for name in names]
    boards = {}
    for name in names:
        fault = rng.choice(list(Fault)) if rng.random() < trouble else Fault.WELL
        serves = NEW if fault is Fault.HAS_IT else rng.choice(["old", "older", ""])
        reserved = 1000 + rng.choice([20, 200, 2000]) if rng.random() < trouble / 5 else 0.0
        boards[name] = SimBoard(name, fault, serves, reserved)
        if fault is Fault.AWAY:
            boards[name].down_until = 1000 + rng.choice([20.0, 100.0, 1e9])
    policy = RolloutSpec(
        max_failures=rng.choice([0, 0, 1, 3, count]),
        board_seconds=BOARD_SECONDS,
        attempts=rng.randint(1, 3),
        on_failure=rng.choice(list(OnFailure)),
        reserved=rng.choice(list(Reserved)),
        reserved_seconds=rng.choice([0.0, 50.0, 500.0]),
    )
    planned = RolloutPlanned(
        at=1000.0,
        rollout="r",
        name="n",
        by="me",
        policy=policy,
        places=tuple(plans),
        approvals=tuple(w for w in range(waves) if rng.random() < 0.2),
        soaks=tuple(rng.choice([0.0, 30.0]) for _ in range(waves)),
    )
    open_of_ten = rng.choice([10, 10, 10, 3])
    always = open_of_ten == 10
    return Oracle(
        planned, boards, rng.choice([1, 2, 4, count]), lambda now: always or (now > 0 and now // 100 % 10 < open_of_ten)
    )


def test_no_schedule_of_faults_kills_and_orders_breaks_a_promise() -> None:
    counts, results, endings = Counter[str](), Counter[str](), Counter[str]()
    for seed in range(FIRST, FIRST + SCHEDULES):
        schedule = Schedule(seed)
        try:
            schedule.run()
        except BaseException as error:
            error.add_note(f"BPUDEPLOY_FIRST_SCHEDULE={seed} BPUDEPLOY_SCHEDULES=1")
            raise
        oracle = schedule.oracle
        assert oracle.seen is not None and oracle.seen.result is not None
        counts.update(
            schedules=1,
            kills=schedule.kills,
            interrupts=schedule.interrupts,
            controllers=schedule.controllers,
            boards=len(oracle.boards),
            events=len(oracle.events),
        )
        results[oracle.seen.result] += 1
        endings.update(map(_named, oracle.events))
    print(f"\n{dict(counts)}\nresults: {dict(results)}\n{dict(sorted(endings.items()))}")
    if SCHEDULES >= 1000:
        assert set(results) == {"complete", "incomplete", "failed", "aborted"}
        assert counts["kills"] > SCHEDULES / 3


def _named(event: Event) -> str:
    if isinstance(event, BoardEnded):
        return f"{event.work} {event.ending}"
    if isinstance(event, CommandGiven):
        return event.order
    return "late" if isinstance(event, BoardLate) else event.event
