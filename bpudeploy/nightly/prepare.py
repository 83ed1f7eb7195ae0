"""A night before it begins: what it would do, in which order, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.base import Backend
from bpudeploy.errors import BpudeployError
from bpudeploy.nightly.baseline import Baseline, read_baseline
from bpudeploy.nightly.night import Night, nights_in
from bpudeploy.nightly.quarantine import quarantined
from bpudeploy.nightly.schedule import Slot, expected, forecast
from bpudeploy.nightly.suite import LoadedSuite
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY
from bpudeploy.planning.step import Plan
from bpudeploy.releases import PROJECT

NIGHTS = PROJECT / "nights"


@dataclass(frozen=True)
class Prepared:
    """A night before it begins: what it would do."""

    loaded: LoadedSuite
    plans: Mapping[str, Plan | BpudeployError]
    """By job: a recipe whose compiler is not here has none."""
    backends: Mapping[str, Backend]
    baselines: Mapping[str, Baseline | None]
    nights: tuple[Night, ...]
    """Of the past, the latest first."""
    out: Mapping[str, str]
    """Board to why it is left out."""
    slots: tuple[Slot, ...]


def prepare(loaded: LoadedSuite, backends: Mapping[str, Backend], store: Path) -> Prepared:
    """Look at what a night would do: nothing is built and no board is asked.

    Args:
        backends: by the name that targets give.

    Raises:
        UsageError: a baseline's file is none.
    """
    plans: dict[str, Plan | BpudeployError] = {}
    for job in loaded.jobs:
        try:
            plans[job.name] = pipeline.plan(job.resolved, backends[job.resolved.target.backend]).until(BINARY)
        except BpudeployError as error:
            plans[job.name] = error
    nights = tuple(night for _, night in nights_in(NIGHTS) if night.suite == loaded.suite.name)
    wanted = {
        job.name: expected(job, plan, store, nights) for job in loaded.jobs if isinstance(plan := plans[job.name], Plan)
    }
    out = quarantined(nights, loaded.suite.quarantine)
    plannable = [job for job in loaded.jobs if job.name in wanted]
    return Prepared(
        loaded=loaded,
        plans=plans,
        backends=backends,
        baselines={job.name: read_baseline(loaded.baselines, job.name) for job in loaded.jobs},
        nights=nights,
        out=out,
        slots=tuple(forecast(plannable, wanted, out, loaded.budget_s)),
    )
