"""What fits into a night: how long each job is expected to take, and when each would begin on which board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.nightly.night import JobResult, JobState, Night
from bpudeploy.nightly.suite import Job
from bpudeploy.planning.preview import StepState, preview
from bpudeploy.planning.step import Plan
from bpudeploy.store.steps import latest_record

_ROUND_TRIP_S = 60.0
"""Beside the rounds: sending, loading, the evaluation images. Only where no night has told yet."""


@dataclass(frozen=True)
class Expected:
    """Seconds that a job is expected to take; ``sure`` where earlier nights or runs have told all of it."""

    build_s: float
    board_s: float
    sure: bool


@dataclass(frozen=True)
class Slot:
    """When a job would run, seconds after the night begins; ``board`` None: it does not fit."""

    job: Job
    board: str | None
    begins_s: float
    expected: Expected


def expected(job: Job, plan: Plan, root: Path, nights: Sequence[Night], contenders: int = 1) -> Expected:
    """Return how long a job is expected to take: from what this store's steps and the last nights took.

    Args:
        nights: the latest first.
        contenders: releases that are measured in turns.
    """
    build, sure = 0.0, True
    for planned in preview(plan, root):
        forced = job.recompile and planned.step == plan.steps[-1].name
        if planned.state is StepState.HIT and not forced:
            continue
        record = latest_record(root, plan.recipe, planned.step)
        build += record.seconds if record is not None else 0.0
        sure = sure and record is not None
    before = next((one.board_seconds for one in _of(job, nights) if one.state is JobState.MEASURED), None)
    method = job.resolved.recipe.benchmark
    board = before if before is not None else contenders * method.max_seconds + _ROUND_TRIP_S
    return Expected(build, board, sure and before is not None)


def _of(job: Job, nights: Sequence[Night]) -> list[JobResult]:
    return [one for night in nights for one in night.jobs if one.job == job.name]


def forecast(
    jobs: Sequence[Job], wanted: Mapping[str, Expected], out: Mapping[str, str], budget_s: float | None
) -> list[Slot]:
    """Lay the jobs out as the night will: builds in order, each job on the board of its pool that is free first.

    Args:
        wanted: by job name.
        out: boards that are left out.
    """
    free: dict[str, float] = {}
    built = 0.0
    slots = []
    for job in jobs:
        need = wanted[job.name]
        built += need.build_s
        boards = [board for board in job.boards if board not in out]
        board = min(boards, key=lambda name: free.get(name, 0.0)) if boards else None
        begins = max(built, free.get(board, 0.0)) if board is not None else built
        if board is not None and budget_s is not None and begins + need.board_s > budget_s:
            board = None
        if board is not None:
            free[board] = begins + need.board_s
        slots.append(Slot(job, board, begins, need))
    return slots
