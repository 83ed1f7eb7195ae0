"""The record of a night that is under way: written whenever a job ends, by one process at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from bpudeploy.commits import commit_of
from bpudeploy.errors import UsageError
from bpudeploy.files import Locked, locked
from bpudeploy.measure import versions
from bpudeploy.nightly.baseline import Baseline
from bpudeploy.nightly.floor import Ticket
from bpudeploy.nightly.night import JobResult, JobState, Night, write_night
from bpudeploy.nightly.prepare import NIGHTS, Prepared
from bpudeploy.nightly.suite import Job


@contextmanager
def alone(suite: str) -> Iterator[None]:
    """Be the one night of this suite in this project, until the end of the process, however it comes."""
    NIGHTS.mkdir(parents=True, exist_ok=True)
    try:
        with locked(NIGHTS / f".{suite}.lock"):
            yield
    except Locked as error:
        raise UsageError(f"a night of {suite} is already running here", hint="wait for it, or stop it") from error


class Book:
    """The night's record, written whenever a job ends."""

    def __init__(self, prepared: Prepared, directory: Path) -> None:
        loaded = prepared.loaded
        self._directory = directory
        self._lock = threading.Lock()
        self.night = Night(
            suite=loaded.suite.name,
            file=str(loaded.file),
            began=_now(),
            budget_minutes=loaded.suite.budget_minutes,
            commit=commit_of([loaded.file]),
            jobs=tuple(_blank(job, prepared.baselines[job.name]) for job in loaded.jobs),
            quarantine=prepared.out,
            versions=versions(),
        )
        write_night(self.night, directory)
        _point(directory)

    def of(self, job: str) -> JobResult:
        """Return what is known of a job."""
        return next(one for one in self.night.jobs if one.job == job)

    def put(self, result: JobResult) -> None:
        """Note what is known of a job now."""
        with self._lock:
            jobs = tuple(result if one.job == result.job else one for one in self.night.jobs)
            self.night = self.night.model_copy(update={"jobs": jobs})
            write_night(self.night, self._directory)

    def ended(self, ticket: Ticket, state: JobState, why: str) -> None:
        """A job is over without a measurement."""
        known = self.of(ticket.job.name)
        self.put(known.model_copy(update={"state": state, "why": why, "faults": tuple(ticket.faults)}))

    def close(self) -> None:
        """The night is over."""
        with self._lock:
            self.night = self.night.model_copy(update={"ended": _now()})
            write_night(self.night, self._directory)


def _point(directory: Path) -> None:
    """Let NIGHTS/latest be this night."""
    link = directory.parent / "latest"
    beside = directory.parent / f".latest.{os.getpid()}"
    with suppress(OSError):  # a folder that cannot have links has nights all the same
        beside.unlink(missing_ok=True)
        beside.symlink_to(directory.name)
        beside.replace(link)


def _blank(job: Job, baseline: Baseline | None) -> JobResult:
    return JobResult(
        job=job.name,
        recipe=job.resolved.recipe.name,
        target=job.resolved.target.name,
        value=job.value,
        state=JobState.RUNNING,
        baseline=baseline.release if baseline is not None else None,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
