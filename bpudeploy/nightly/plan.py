"""The plan of a night: excluded boards, how long each job takes, and when each starts on which board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.errors import BpudeployError
from bpudeploy.nightly.baseline import Baseline, read_baseline
from bpudeploy.nightly.night import BoardFault, JobState, Night, nights_in
from bpudeploy.nightly.suite import Job, LoadedSuite
from bpudeploy.planning import pipeline
from bpudeploy.planning.preview import StepState, preview
from bpudeploy.planning.products import BINARY
from bpudeploy.planning.step import Plan
from bpudeploy.releases import PROJECT
from bpudeploy.spec.suite import QuarantineSpec
from bpudeploy.store.steps import latest_record

NIGHTS = PROJECT / "nights"
_OVERHEAD_S = 60.0
"""Transfers, loading and evaluation images, in addition to the rounds; used until a night has measured the job."""


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds that a job is expected to take; ``sure`` if all of them are known from earlier nights or runs."""

    build_s: float
    board_s: float
    sure: bool


@dataclass(frozen=True)
class Slot:
    """When a job would run, in seconds after the start of the night; ``board`` is None if it does not fit."""

    job: Job
    board: str | None
    begins_s: float
    estimate: TimeEstimate


@dataclass(frozen=True)
class NightPlan:
    """What a night would do."""

    loaded: LoadedSuite
    plans: Mapping[str, Plan | BpudeployError]
    """Per job; an error if the job cannot be built, for example because its compiler is not installed."""
    baselines: Mapping[str, Baseline | None]
    nights: tuple[Night, ...]
    """Earlier nights, newest first."""
    excluded: Mapping[str, str]
    """Boards in quarantine, each with the reason."""
    slots: tuple[Slot, ...]


def plan_night(loaded: LoadedSuite, store: Path) -> NightPlan:
    """Plan a night; build nothing and contact no board.

    Raises:
        UsageError: a baseline file is invalid.
    """
    plans: dict[str, Plan | BpudeployError] = {}
    for job in loaded.jobs:
        try:
            plans[job.name] = pipeline.plan(job.resolved).until(BINARY)
        except BpudeployError as error:
            plans[job.name] = error
    nights = tuple(night for _, night in nights_in(NIGHTS) if night.suite == loaded.suite.name)
    excluded = quarantined(nights, loaded.suite.quarantine)
    estimates = [
        (job, estimate(job, plan, store, nights)) for job in loaded.jobs if isinstance(plan := plans[job.name], Plan)
    ]
    return NightPlan(
        loaded=loaded,
        plans=plans,
        baselines={job.name: read_baseline(loaded.baselines, job.name) for job in loaded.jobs},
        nights=nights,
        excluded=excluded,
        slots=tuple(schedule(estimates, excluded, loaded.budget_s)),
    )


def quarantined(nights: Sequence[Night], spec: QuarantineSpec) -> dict[str, str]:
    """Return the excluded boards, each with the reason.

    There is no other state than the records of the nights: a board returns when its faults are older than
    ``spec.nights``.

    Args:
        nights: those of the suite, newest first.
    """
    faults: dict[str, list[BoardFault]] = {}
    for fault in (fault for night in nights[: spec.nights] for job in night.jobs for fault in job.faults):
        faults.setdefault(fault.board, []).append(fault)
    excluded = {name: f"excluded manually: {why}" for name, why in spec.boards.items()}
    for name, found in faults.items():
        if name not in excluded and len(found) >= spec.faults:
            last = max(found, key=lambda fault: fault.at)
            excluded[name] = (
                f"{len(found)} board faults in the last {min(len(nights), spec.nights)} nights, "
                f"the latest on {last.at[:10]}: {last.said}"
            )
    return excluded


def estimate(job: Job, plan: Plan, root: Path, nights: Sequence[Night]) -> TimeEstimate:
    """Estimate the duration of a job from the steps in this store and from earlier nights.

    Args:
        nights: newest first.
    """
    build, sure = 0.0, True
    for outlook in preview(plan, root):
        recompiled = job.recompile and outlook.step == plan.steps[-1].name
        if outlook.state is StepState.HIT and not recompiled:
            continue
        record = latest_record(root, plan.recipe, outlook.step)
        build += record.seconds if record is not None else 0.0
        sure = sure and record is not None
    results = (night.result(job.name) for night in nights)
    before = next((one.board_seconds for one in results if one and one.state is JobState.MEASURED), None)
    board = job.resolved.recipe.benchmark.max_seconds + _OVERHEAD_S if before is None else before
    return TimeEstimate(build, board, sure and before is not None)


def schedule(
    estimates: Sequence[tuple[Job, TimeEstimate]], excluded: Mapping[str, str], budget_s: float | None
) -> list[Slot]:
    """Schedule the jobs as the night will: builds in order, each job on the first free board of its pool.

    Args:
        excluded: boards that are not used.
    """
    free: dict[str, float] = {}
    built = 0.0
    slots = []
    for job, needed in estimates:
        built += needed.build_s
        boards = [board for board in job.boards if board not in excluded]
        board = min(boards, key=lambda name: free.get(name, 0.0)) if boards else None
        begins = max(built, free.get(board, 0.0)) if board is not None else built
        if board is not None and budget_s is not None and begins + needed.board_s > budget_s:
            board = None
        if board is not None:
            free[board] = begins + needed.board_s
        slots.append(Slot(job, board, begins, needed))
    return slots
