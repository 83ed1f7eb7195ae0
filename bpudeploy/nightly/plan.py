"""The plan of a night: what it would do, in which order, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.base import Backend
from bpudeploy.errors import BpudeployError
from bpudeploy.nightly.baseline import Baseline, read_baseline
from bpudeploy.nightly.night import Night, nights_in
from bpudeploy.nightly.schedule import Slot, estimate, quarantined, schedule
from bpudeploy.nightly.suite import LoadedSuite
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY
from bpudeploy.planning.step import Plan
from bpudeploy.releases import PROJECT

NIGHTS = PROJECT / "nights"


@dataclass(frozen=True)
class NightPlan:
    """What a night would do."""

    loaded: LoadedSuite
    plans: Mapping[str, Plan | BpudeployError]
    """Per job; an error if the job cannot be built, for example because its compiler is not installed."""
    backends: Mapping[str, Backend]
    baselines: Mapping[str, Baseline | None]
    nights: tuple[Night, ...]
    """Earlier nights, newest first."""
    excluded: Mapping[str, str]
    """Boards in quarantine, each with the reason."""
    slots: tuple[Slot, ...]


def plan_night(loaded: LoadedSuite, backends: Mapping[str, Backend], store: Path) -> NightPlan:
    """Plan a night; build nothing and contact no board.

    Args:
        backends: by name.

    Raises:
        UsageError: a baseline file is invalid.
    """
    plans: dict[str, Plan | BpudeployError] = {}
    for job in loaded.jobs:
        try:
            plans[job.name] = pipeline.plan(job.resolved, backends[job.resolved.target.backend]).until(BINARY)
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
        backends=backends,
        baselines={job.name: read_baseline(loaded.baselines, job.name) for job in loaded.jobs},
        nights=nights,
        excluded=excluded,
        slots=tuple(schedule(estimates, excluded, loaded.budget_s)),
    )
