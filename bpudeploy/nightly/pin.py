"""Pinning: the release that was measured last becomes the one that later nights are held against."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from bpudeploy.nightly.baseline import Baseline, baseline_of, read_baseline
from bpudeploy.nightly.suite import Job, LoadedSuite
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.store import Query, Results

_LATEST = 60
"""Measurements of the release that are looked at."""


@dataclass(frozen=True)
class Pin:
    """A job's baseline as it is and as it would be; ``after`` None: nothing was measured of the job yet."""

    job: str
    before: Baseline | None
    after: Baseline | None


def pins(loaded: LoadedSuite, results: Results, why: str) -> list[Pin]:
    """Return what pinning the latest measured release of each job would write. Writes nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Pin(job.name, read_baseline(loaded.baselines, job.name), _pinned(job, loaded, results, now, why))
        for job in loaded.jobs
    ]


def _pinned(job: Job, loaded: LoadedSuite, results: Results, now: str, why: str) -> Baseline | None:
    latest = _latest(job, loaded.suite.name, results)
    if latest is None:
        return None
    of_it = results.find(
        Query(
            release=latest.subject.release,
            recipe=latest.subject.recipe,
            target=latest.subject.target,
            provenance=latest.provenance,
            limit=_LATEST,
        )
    )
    return baseline_of(job.name, of_it, now, why)


def _latest(job: Job, suite: str, results: Results) -> Measurement | None:
    """Return the latest measurement that a night of the suite judged; else the latest of any."""
    recipe, target = job.resolved.recipe.name, job.resolved.target.name
    found = results.find(Query(recipe=recipe, target=target, with_samples=False))
    judged = (m for m in found if m.night is not None and m.night.partition("/")[0] == suite)
    return next(judged, found[0] if found else None)
