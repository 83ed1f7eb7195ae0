"""Measure one job on one board: the release and its baseline interleaved, repeated if invalid or suspicious."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpudeploy.boardjob import BoardJob, JobReservation, on_board
from bpudeploy.boards.base import BoardOpener
from bpudeploy.events import Event, Note
from bpudeploy.measure import Candidate
from bpudeploy.nightly.baseline import Baseline
from bpudeploy.nightly.baseline_findings import JobMeasurement, baseline_findings
from bpudeploy.nightly.night import FindingOutcome
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.suite import NightlyChecks

STEP = "nightly"
_MAX_MEASUREMENTS = 3
"""The first, a repetition if it is invalid, and another to confirm a regression."""
_SPARE_S = 900.0


@dataclass(frozen=True)
class JobRelease:
    """Tonight's release of a job, and the pinned one if it is another and still in the store."""

    recipe: str
    """Its file."""
    candidate: Candidate
    pinned: Candidate | None
    baseline: Baseline | None
    method: BenchmarkSpec
    checks: NightlyChecks

    @property
    def contenders(self) -> tuple[Candidate, ...]:
        return (self.candidate, *((self.pinned,) if self.pinned is not None else ()))

    @property
    def seconds(self) -> float:
        """Duration of the board's reservation: all possible measurements, plus time for transfers."""
        return _MAX_MEASUREMENTS * len(self.contenders) * self.method.max_seconds + _SPARE_S


def measure_job(
    opener: BoardOpener,
    job: JobRelease,
    night: str,
    board_id: str | None,
    keep: Callable[[tuple[Measurement, ...]], None],
    emit: Callable[[Event], None],
) -> tuple[JobMeasurement, ...]:
    """Measure a job's release on a board and return the measurements that count, newest last.

    Args:
        night: SUITE/DIRECTORY; the suite holds the reservation.
        board_id: the serial number that the board must have; None accepts any.
        keep: called with each measurement as soon as it is complete.

    Raises:
        Reserved: somebody else has reserved the board.
        BoardError: the board or its network failed.
    """
    suite = night.partition("/")[0]
    claim = JobReservation(job.seconds, f"{suite} measures {job.candidate.release.manifest.name}", suite)
    with on_board(opener, emit, board_id=board_id, reservation=claim) as board:
        first = _measure_once(board, job, night, keep)
        if first.measurement.invalidating:
            emit(Note(STEP, f"invalid ({', '.join(first.measurement.caveats)}): measured again"))
            first = _measure_once(board, job, night, keep)
        findings = baseline_findings([first], job.baseline, job.checks)
        if not any(one.outcome is FindingOutcome.REGRESSION and one.metric.is_latency for one in findings):
            return (first,)
        emit(Note(STEP, "possible regression: measured again to confirm it"))
        return first, _measure_once(board, job, night, keep)


def _measure_once(
    board: BoardJob, job: JobRelease, night: str, keep: Callable[[tuple[Measurement, ...]], None]
) -> JobMeasurement:
    measured = board.measure(job.contenders, job.method)
    ours = measured[0].model_copy(update={"night": night})
    keep((ours, *measured[1:]))
    return JobMeasurement(ours, compare(measured[1:], [ours]) if len(measured) > 1 else None)
