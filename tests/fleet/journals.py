"""Invented journals in the form that rollouts write."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bpudeploy.fleet.events import (
    BoardEnded,
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
from bpudeploy.spec.fleet import GatesSpec, OnFailure, Reserved, RolloutSpec, Wave

EVENING = datetime(2026, 11, 28, 20, 0, tzinfo=UTC).timestamp()
TARGETS = ("rdk-x5", "rdk-x5", "rdk-x5", "rdk-x3", "rdk-s100")
SIZES = {"rdk-x5": 24_100_000, "rdk-x3": 13_700_000, "rdk-s100": 41_300_000}
BY = "ada@build-7"


def digest(text: str) -> str:
    """Return a digest for a name."""
    return hashlib.sha256(text.encode()).hexdigest()


def board_plan(i: int, wave: int, **other: object) -> BoardPlan:
    """Return the part of board ``i``."""
    target = TARGETS[i % len(TARGETS)]
    values: dict[str, object] = {
        "board": f"{target.removeprefix('rdk-')}-lab{i % 3 + 1}-{i:03}",
        "address": f"sunrise@10.0.{i // 250}.{i % 250 + 2}",
        "jump": None,
        "board_id": digest(f"soc {i}")[:16],
        "target": target,
        "release": digest(f"deit {target}"),
        "wave": wave,
        "skipped": None,
    }
    return BoardPlan.model_validate(values | other)


@dataclass
class Story:
    """Writes a journal; ``at_once`` boards of a wave are updated concurrently."""

    plans: Sequence[BoardPlan]
    policy: RolloutSpec
    approvals: tuple[int, ...] = ()
    soaks: tuple[float, ...] = ()
    at_once: int = 4
    now: float = EVENING
    events: list[Event] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(9))

    def __post_init__(self) -> None:
        self.events.append(
            RolloutPlanned(
                at=self.now,
                rollout="2026-11-28T20-00-00-deit-tiny",
                name="deit-tiny",
                by=BY,
                policy=self.policy,
                places=tuple(self.plans),
                approvals=self.approvals,
                soaks=self.soaks or (0.0,) * (1 + max(p.wave for p in self.plans)),
            )
        )
        self.control()

    def control(self, pid: int = 4711) -> None:
        self.now += 0.4
        self.events.append(ControllerStarted(at=self.now, by=f"{BY} pid {pid}"))

    def order(self, order: RolloutCommand, by: str = "grace@desk", wave: int | None = None) -> None:
        self.events.append(CommandGiven(at=self.now, order=order, by=by, wave=wave))

    def wave(self, wave: int, endings: dict[str, tuple[TaskStatus, str]] | None = None, ends: bool = True) -> None:
        """Update the boards of a wave; those that ``endings`` names do not end done."""
        free = [self.now] * self.at_once
        made: list[Event] = []
        for p in self.plans:
            if p.wave == wave and p.skipped is None:
                slot = free.index(min(free))
                happened = self.update(p, free[slot], *(endings or {}).get(p.board, (TaskStatus.DONE, "")))
                made += happened
                free[slot] = happened[-1].at + 0.05
        self.events += sorted(made, key=lambda e: e.at)
        self.now = max(free) + 0.3
        if ends:
            self.events.append(WaveEnded(at=self.now, wave=wave))

    def update(self, p: BoardPlan, at: float, ending: TaskStatus, detail: str, attempt: int = 1) -> list[Event]:
        """Return what happens to one board."""
        seen: list[Event] = [BoardStarted(at=at, board=p.board, work=TaskKind.UPDATE, attempt=attempt)]
        old, new = digest(f"older {p.target}"), p.release
        if ending in (TaskStatus.UNREACHABLE, TaskStatus.RESERVED):
            at += 15 if ending is TaskStatus.UNREACHABLE else 0.7
            end = BoardEnded(at=at, board=p.board, work=TaskKind.UPDATE, ending=ending, detail=detail, touched=False)
            if ending is TaskStatus.UNREACHABLE and attempt == 1:
                return [*seen, end, *self.update(p, at + 5, ending, detail, 2)]
            return [*seen, end]
        size = SIZES[p.target]
        for step, took, words in (
            ("connected", self.chance.uniform(0.3, 1.2), f"serves {old[:12]}"),
            ("pushed", self.chance.uniform(3, 9) * size / 2e7, f"{size} bytes"),
            ("checked", self.chance.uniform(1.5, 4), "20 of 20 golden images as on the host"),
        ):
            at += took
            if step == "checked" and ending is TaskStatus.FAILED:
                break
            seen.append(StepReached(at=at, board=p.board, step=step, detail=words))
        failed = ending is TaskStatus.FAILED
        end = BoardEnded(
            at=at + (2.0 if failed else 0.2),
            board=p.board,
            work=TaskKind.UPDATE,
            ending=ending,
            detail=detail,
            changed=not failed,
            serves=old if failed else new,
            before=old,
            bytes_sent=size,
        )
        return [*seen, end]

    def back(self, boards: Sequence[str], fails: Sequence[str] = ()) -> None:
        """Take boards back to their release before."""
        at, made = self.now, list[Event]()
        for board in boards:
            target = next(p.target for p in self.plans if p.board == board)
            old = digest(f"older {target}")
            begun, took = at + self.chance.uniform(0.0, 0.8), self.chance.uniform(1.0, 2.5)
            made.append(BoardStarted(at=begun, board=board, work=TaskKind.ROLLBACK, attempt=1))
            bad = board in fails
            made.append(
                BoardEnded(
                    at=begun + took,
                    board=board,
                    work=TaskKind.ROLLBACK,
                    ending=TaskStatus.FAILED if bad else TaskStatus.DONE,
                    detail="the release before is gone from the board" if bad else "",
                    changed=not bad,
                    serves=None if bad else old,
                )
            )
        self.events += sorted(made, key=lambda e: e.at)
        self.now = max((e.at for e in made), default=at) + 0.3

    def finish(self, result: RolloutResult, why: str) -> list[Event]:
        self.events.append(RolloutFinished(at=self.now, result=result, why=why))
        return self.events


def six() -> list[Event]:
    """Return six boards of three kinds, in two waves, complete."""
    story = Story([board_plan(i, 0 if i == 0 else 1) for i in range(6)], RolloutSpec(waves=(Wave(count=1),)), at_once=2)
    story.wave(0)
    story.wave(1)
    return story.finish(RolloutResult.COMPLETE, "6 of 6 boards serve their release")


def hundred(fails_in: int | None = 0) -> list[Event]:
    """Return a hundred boards in four waves; in wave ``fails_in`` boards fail, it stops, and the wave goes back."""
    policy = RolloutSpec(
        waves=(Wave(select="group=canary", soak_seconds=300), Wave(percent=10), Wave(percent=30)),
        gates=GatesSpec(max_drop=1.0, max_p99_slower=10, max_temperature=85),
        soak_seconds=60,
        on_failure=OnFailure.ROLLBACK_WAVE,
        windows=("mon-sun 20:00-06:00",),
    )
    waves = [0] * 4 + [1] * 10 + [2] * 30 + [3] * 56
    plans = [board_plan(i, wave) for i, wave in enumerate(waves)]
    nothing = "nothing is built for rdk-x3-md"
    plans[77] = board_plan(77, 0, target="rdk-x3-md", board="x3md-lab3-077", release=None, skipped=nothing)
    story = Story(plans, policy, soaks=(300, 60, 60, 0), at_once=10)
    troubles = {
        plans[5].board: (TaskStatus.UNREACHABLE, "no answer from 10.0.0.7:22 within 15 s"),
        plans[27].board: (TaskStatus.RESERVED, "grace has it until 23:00 UTC: burn-in"),
        plans[66].board: (TaskStatus.UNREACHABLE, "the connection was lost while it was being sent"),
    }
    for wave in range(4):
        failing = {}
        if wave == fails_in:
            mine = [p.board for p in plans if p.wave == wave]
            failing[mine[len(mine) // 2]] = (TaskStatus.FAILED, "gate max_drop 1 point: top-1 lost 6.2 (4.1 to 8.3)")
        story.wave(wave, troubles | failing, ends=not failing)
        if failing:
            done = [e.board for e in story.events if isinstance(e, BoardEnded) and e.ending is TaskStatus.DONE]
            story.back([p.board for p in plans if p.wave == wave and p.board in done])
            return story.finish(
                RolloutResult.FAILED, f"1 board failed in wave {wave + 1}, and none may: {next(iter(failing))}"
            )
        story.now += story.soaks[wave]
    return story.finish(RolloutResult.INCOMPLETE, "2 boards are unreachable, 1 is reserved: bpudeploy fleet reconcile")


def resumed() -> list[Event]:
    """Return twelve boards: paused and resumed by hand, the controller killed in the middle, and taken up again."""
    plans = [board_plan(i, 0 if i < 2 else 1) for i in range(12)]
    story = Story(plans, RolloutSpec(waves=(Wave(count=2),), max_unavailable=3), at_once=3)
    story.wave(0)
    story.order(RolloutCommand.PAUSE)
    story.now += 40
    story.order(RolloutCommand.RESUME)
    began = len(story.events)
    story.wave(1, ends=False)
    killed = story.now - 11
    story.events[began:] = [e for e in story.events[began:] if e.at <= killed]
    ended = {e.board for e in story.events if isinstance(e, BoardEnded)}
    begun = {e.board for e in story.events if isinstance(e, BoardStarted)} - ended
    assert begun, "some board was in the middle"
    story.now = killed + 25
    story.control(4822)
    left = replace(story, plans=[p for p in plans if p.board not in ended], events=[], approvals=(), soaks=())
    left.events, left.now = [], story.now
    left.wave(1)
    story.events += left.events
    story.now = left.now
    return story.finish(RolloutResult.COMPLETE, "12 of 12 boards serve their release")


def troubled() -> list[Event]:
    """Return eight boards, of which one is reserved and waited for, one unreachable, one failed, one not built for."""
    plans = [board_plan(i, 0) for i in range(8)]
    plans[7] = board_plan(7, 0, release=None, skipped="nothing is built for rdk-x3")
    policy = RolloutSpec(max_failures=1, reserved=Reserved.WAIT, reserved_seconds=600)
    story = Story(plans, policy, at_once=3)
    endings = {
        plans[1].board: (TaskStatus.RESERVED, "grace has it until 20:03 UTC"),
        plans[2].board: (TaskStatus.UNREACHABLE, "no route to host"),
        plans[4].board: (TaskStatus.FAILED, "disk full: 12 MB free, 24 MB needed"),
    }
    story.wave(0, endings, ends=False)
    story.now = EVENING + 185
    story.events += story.update(plans[1], story.now, TaskStatus.DONE, "", attempt=2)
    story.now = story.events[-1].at + 0.2
    story.events.append(WaveEnded(at=story.now, wave=0))
    return story.finish(RolloutResult.INCOMPLETE, "1 board failed, 1 is unreachable: bpudeploy fleet reconcile")


def approved() -> list[Event]:
    """Return nine boards in three waves, with an hour's soak, and a night until somebody approves the last one."""
    plans = [board_plan(i, i // 3) for i in range(9)]
    policy = RolloutSpec(waves=(Wave(count=3, soak_seconds=3600), Wave(count=3), Wave(count=3, approve=True)))
    story = Story(plans, policy, approvals=(2,), soaks=(3600, 0, 0), at_once=2)
    story.wave(0)
    story.now += 3600
    story.wave(1)
    story.now += 11 * 3600 + 1234
    story.order(RolloutCommand.APPROVE, wave=2)
    story.wave(2)
    return story.finish(RolloutResult.COMPLETE, "9 of 9 boards serve their release")


def running() -> list[Event]:
    """Return the hundred boards in the middle of the third wave."""
    whole = hundred(None)
    third = [i for i, e in enumerate(whole) if isinstance(e, WaveEnded)][1]
    return whole[: third + 45]


EVERY = {
    "six": six,
    "canary": hundred,
    "third": lambda: hundred(2),
    "hundred": lambda: hundred(None),
    "resumed": resumed,
    "troubled": troubled,
    "approved": approved,
    "running": running,
}


def hostile(name: str, detail: str, by: str = BY) -> list[Event]:
    """Return a rollout of two boards, one of which failed, with names and words that somebody else chose."""
    plans = [board_plan(0, 0, board=f"{name}0"), board_plan(1, 0, board=f"{name}1", target=f"t{name}")]
    planned = RolloutPlanned(
        at=EVENING,
        rollout=f"r{name}",
        name=f"n{name}",
        by=by,
        policy=RolloutSpec(),
        places=tuple(plans),
        approvals=(),
        soaks=(0.0,),
    )
    events: list[Event] = [planned, ControllerStarted(at=EVENING, by=f"c{by}")]
    for i, (p, ending) in enumerate(zip(plans, (TaskStatus.DONE, TaskStatus.FAILED), strict=True)):
        at = EVENING + 10 * i
        events += [
            BoardStarted(at=at, board=p.board, work=TaskKind.UPDATE, attempt=1),
            StepReached(at=at + 1, board=p.board, step="connected", detail=f"d{detail}"),
            BoardEnded(
                at=at + 5, board=p.board, work=TaskKind.UPDATE, ending=ending, detail=f"d{detail}", serves=p.release
            ),
        ]
    events.append(CommandGiven(at=EVENING + 20, order=RolloutCommand.PAUSE, by=f"o{by}"))
    return [*events, RolloutFinished(at=EVENING + 21, result=RolloutResult.FAILED, why=f"w{detail}")]
