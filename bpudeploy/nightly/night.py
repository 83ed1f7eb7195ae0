"""A night as it went: what each job gave, what was judged and how, what was left out and why. Its exit code follows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import write_atomically
from bpudeploy.nightly.metrics import Metric
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Caveat, Interval

FILE = "night.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Against(StrEnum):
    """What a figure is held against."""

    BASELINE = "baseline"
    HISTORY = "history"


class Outcome(StrEnum):
    """What is known of a figure."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SAME = "same"
    """What difference there may be is smaller than what the suite cares for, or none was found in enough data."""
    CANNOT_TELL = "cannot tell"


class Finding(_Value):
    """One metric of one job, held against its baseline or its history."""

    metric: Metric
    against: Against
    outcome: Outcome
    now: float | None
    before: float | None
    change: Interval | None
    """From ``before`` to ``now`` with its 95 % interval, in percent or, of top-1, in points; above 0: it went up."""
    at_least: float
    """A change below that is nobody's concern."""
    how: str
    """How the two were held against each other, such as "in turns, 20 pairs of rounds"."""
    because: tuple[str, ...] = ()
    """Why nothing can be told, or what to know of it."""
    since: str | None = None
    """Of a regression: the first bad night, UTC, ISO 8601."""
    last_good: str | None = None
    changed: tuple[str, ...] = ()
    """What is different from the last good one: recipe, weights, tool versions, board."""
    reproduce: tuple[str, ...] = ()
    """Commands."""


class Fault(_Value):
    """A try that a board or its network invalid; it says nothing of the release."""

    board: str
    at: str
    """UTC, ISO 8601."""
    said: str


class JobState(StrEnum):
    """What became of a job."""

    MEASURED = "measured"
    BUILD_FAILED = "build failed"
    NO_BOARD = "no board"
    """No board of its pool could measure it: they were off, reserved, faulty, or in quarantine."""
    LEFT_OUT = "left out"
    """The night was too short for it."""
    RUNNING = "running"
    """It is not over; in a night that has ended, it was cut off."""


class JobResult(_Value):
    """What one job gave."""

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
    """Of its measurement, in the store of results."""
    release: str | None = None
    baseline: str | None = None
    """The pinned release."""
    provenance: Provenance | None = None
    figures: Mapping[Metric, float] = {}
    p50_ms: Interval | None = None
    caveats: tuple[Caveat, ...] = ()
    findings: tuple[Finding, ...] = ()
    faults: tuple[Fault, ...] = ()
    build_seconds: float = 0.0
    board_seconds: float = 0.0

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """What got worse."""
        return tuple(f for f in self.findings if f.outcome is Outcome.REGRESSION)


class Night(_Value):
    """One run of a suite."""

    schema_version: int = 1
    suite: str
    file: str
    """The suite's file, as it was named."""
    began: str
    """UTC, ISO 8601."""
    ended: str | None = None
    """None: it is not over, or was cut off."""
    budget_minutes: float | None = None
    commit: str | None = None
    """Of the suite's repository."""
    jobs: tuple[JobResult, ...] = ()
    """The most valuable first."""
    quarantine: Mapping[str, str] = {}
    """Board to why it was left out."""
    versions: Mapping[str, str] = {}

    @property
    def regressions(self) -> tuple[tuple[JobResult, Finding], ...]:
        """What got worse, job by job."""
        return tuple((job, finding) for job in self.jobs for finding in job.regressions)

    @property
    def exit_code(self) -> ExitCode:
        """The verdict: a regression, else a build that failed, else a job that no board could measure."""
        if self.regressions:
            return ExitCode.CHECK
        if self.ended is None:
            return ExitCode.INTERRUPTED
        states = {job.state for job in self.jobs}
        if JobState.BUILD_FAILED in states:
            return ExitCode.STAGE
        return ExitCode.BOARD if JobState.NO_BOARD in states else ExitCode.OK


def write_night(night: Night, directory: Path) -> None:
    """Write a night into its directory; a reader sees the old text or the new one."""
    write_atomically(directory / FILE, night.model_dump_json(indent=1))


def read_night(directory: Path) -> Night:
    """Read a night from its directory.

    Raises:
        UsageError: there is none, or it is of another version of bpudeploy.
    """
    path = directory / FILE
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
    """Return the nights in a folder that can be read, each with its directory, the latest first."""
    found = []
    for path in sorted(parent.glob(f"*/{FILE}"), reverse=True):
        if not path.parent.is_symlink():
            with suppress(UsageError):
                found.append((path.parent, read_night(path.parent)))
    return sorted(found, key=lambda one: one[1].began, reverse=True)
