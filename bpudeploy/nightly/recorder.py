"""The record of a running night, written after each job by one process at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpudeploy.commits import commit_of
from bpudeploy.errors import UsageError
from bpudeploy.files import Locked, locked
from bpudeploy.measure import versions
from bpudeploy.nightly.night import JobResult, JobState, Night, utc_now, write_night
from bpudeploy.nightly.plan import NIGHTS, NightPlan


@contextmanager
def suite_lock(suite: str) -> Iterator[None]:
    """Hold the lock of a suite in this project, so that only one of its nights runs at a time."""
    NIGHTS.mkdir(parents=True, exist_ok=True)
    try:
        with locked(NIGHTS / f".{suite}.lock"):
            yield
    except Locked as error:
        raise UsageError(f"a night of {suite} is already running here", hint="wait for it, or stop it") from error


class NightRecorder:
    """Writes the night's record after each change."""

    def __init__(self, plan: NightPlan, directory: Path) -> None:
        loaded = plan.loaded
        self._directory = directory
        self._lock = threading.Lock()
        self.night = Night(
            suite=loaded.suite.name,
            file=str(loaded.file),
            began=utc_now(),
            budget_minutes=loaded.suite.budget_minutes,
            commit=commit_of([loaded.file]),
            jobs=tuple(
                JobResult(
                    job=job.name,
                    recipe=job.resolved.recipe.name,
                    target=job.resolved.target.name,
                    value=job.value,
                    state=JobState.RUNNING,
                    baseline=baseline.release if (baseline := plan.baselines[job.name]) is not None else None,
                )
                for job in loaded.jobs
            ),
            quarantine=plan.excluded,
            versions=versions(),
        )
        write_night(self.night, directory)
        _link_latest(directory)

    def job(self, name: str) -> JobResult:
        """Return the current result of a job."""
        return next(one for one in self.night.jobs if one.job == name)

    def update(self, result: JobResult, **fields: object) -> None:
        """Replace the result of a job by ``result`` with ``fields``."""
        result = result.model_copy(update=fields)
        with self._lock:
            jobs = tuple(result if one.job == result.job else one for one in self.night.jobs)
            self._write(jobs=jobs)

    def close(self) -> None:
        """Record the end of the night."""
        with self._lock:
            self._write(ended=utc_now())

    def _write(self, **fields: object) -> None:
        self.night = self.night.model_copy(update=fields)
        write_night(self.night, self._directory)


def _link_latest(directory: Path) -> None:
    """Point NIGHTS/latest to this night, if the file system has links."""
    beside = directory.parent / f".latest.{os.getpid()}"
    with suppress(OSError):
        beside.unlink(missing_ok=True)
        beside.symlink_to(directory.name)
        beside.replace(directory.parent / "latest")
