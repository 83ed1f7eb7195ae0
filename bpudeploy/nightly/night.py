"""The record of a night: the result of each job, its findings, excluded boards, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import write_atomically
from bpudeploy.nightly.metrics import Metric
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Caveat, FrozenModel, Interval

_FILE = "night.json"


class Reference(StrEnum):
    """What a metric is compared with."""

    BASELINE = "baseline"
    HISTORY = "history"


class FindingOutcome(StrEnum):
    """The outcome of a comparison."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SAME = "same"
    """Any difference is below the threshold, or enough data shows none."""
    CANNOT_TELL = "cannot tell"


class MetricFinding(FrozenModel):
    """One metric of one job, compared with its baseline or its history."""

    metric: Metric
    against: Reference
    outcome: FindingOutcome
    now: float | None
    before: float | None = None
    change: Interval | None = None
    """From ``before`` to ``now`` with its 95 % interval, in percent or, for top-1, in points; positive: an increase."""
    at_least: float
    """Threshold: smaller changes are ignored."""
    how: str = ""
    """The method of comparison, such as "interleaved with the pinned release on B, 20 pairs of rounds"."""
    because: tuple[str, ...] = ()
    """Why there is no verdict, or notes on it."""
    since: str | None = None
    """The first bad night of a regression, UTC, ISO 8601."""
    last_good: str | None = None
    changed: tuple[str, ...] = ()
    """Differences from the last good measurement: recipe, weights, tool versions, board."""
    reproduce: tuple[str, ...] = ()
    """Commands."""

    @property
    def title(self) -> str:
        """Such as "p50 latency against its baseline"."""
        return f"{self.metric.label} against its {self.against}"


class BoardFault(FrozenModel):
    """An attempt that failed because of a board or its network; unrelated to the release."""

    board: str
    at: str
    """UTC, ISO 8601."""
    said: str
    """The error."""


class JobState(StrEnum):
    """The final state of a job."""

    MEASURED = "measured"
    BUILD_FAILED = "build failed"
    NO_BOARD = "no board"
    """No board of its pool could measure it: off, reserved, faulty, or in quarantine."""
    LEFT_OUT = "left out"
    """The time budget did not suffice."""
    RUNNING = "running"
    """Not finished; if the night has ended, it was interrupted."""


class JobResult(FrozenModel):
    """The result of one job."""

    job: str
    """RECIPE@TARGET."""
    recipe: str
    target: str
    value: float
    state: JobState
    why: str = ""
    board: str | None = None
    board_id: str | None = None
    session: str | None = None
    """Its measurement in the results store."""
    release: str | None = None
    baseline: str | None = None
    """The pinned release."""
    provenance: Provenance | None = None
    figures: Mapping[Metric, float] = {}
    p50_ms: Interval | None = None
    caveats: tuple[Caveat, ...] = ()
    findings: tuple[MetricFinding, ...] = ()
    faults: tuple[BoardFault, ...] = ()
    build_seconds: float = 0.0
    board_seconds: float = 0.0

    @property
    def regressions(self) -> tuple[MetricFinding, ...]:
        return tuple(f for f in self.findings if f.outcome is FindingOutcome.REGRESSION)


class Night(FrozenModel):
    """One run of a suite."""

    schema_version: int = 1
    suite: str
    file: str
    """The suite file, as given on the command line."""
    began: str
    """UTC, ISO 8601."""
    ended: str | None = None
    """None: running, or interrupted."""
    budget_minutes: float | None = None
    commit: str | None = None
    """Of the suite's repository."""
    jobs: tuple[JobResult, ...] = ()
    """Highest value first."""
    quarantine: Mapping[str, str] = {}
    """Excluded boards, each with the reason."""
    versions: Mapping[str, str] = {}

    @property
    def regressions(self) -> tuple[tuple[JobResult, MetricFinding], ...]:
        return tuple((job, finding) for job in self.jobs for finding in job.regressions)

    @property
    def measured(self) -> int:
        """Number of measured jobs."""
        return sum(job.state is JobState.MEASURED for job in self.jobs)

    def result(self, job: str) -> JobResult | None:
        """Return the result of a job, or None."""
        return next((one for one in self.jobs if one.job == job), None)

    @property
    def exit_code(self) -> ExitCode:
        """The verdict: a regression, else a failed build, else a job that no board could measure."""
        if self.regressions:
            return ExitCode.CHECK
        if self.ended is None:
            return ExitCode.INTERRUPTED
        states = {job.state for job in self.jobs}
        if JobState.BUILD_FAILED in states:
            return ExitCode.STAGE
        return ExitCode.BOARD if JobState.NO_BOARD in states else ExitCode.OK


def utc_now() -> str:
    """Return the current time as ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_night(night: Night, directory: Path) -> None:
    """Write a night into its directory, atomically."""
    write_atomically(directory / _FILE, night.model_dump_json(indent=1))


def read_night(directory: Path) -> Night:
    """Read a night from its directory.

    Raises:
        UsageError: there is none, or another version of bpudeploy wrote it.
    """
    path = directory / _FILE
    try:
        return Night.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the directory of a night") from error
    except ValidationError as error:
        raise UsageError(
            f"{path} is not a night of this version of bpudeploy: {error.errors()[0]['msg']}",
            hint="use the bpudeploy that wrote it",
        ) from error


def nights_in(parent: Path) -> list[tuple[Path, Night]]:
    """Return the readable nights in a folder, each with its directory, newest first."""
    found = []
    for path in sorted(parent.glob(f"*/{_FILE}"), reverse=True):
        if not path.parent.is_symlink():
            with suppress(UsageError):
                found.append((path.parent, read_night(path.parent)))
    return sorted(found, key=lambda one: one[1].began, reverse=True)
