"""One job on one board: the release and its baseline measured interleaved, again where a figure needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpudeploy.boardjob import BoardJob, JobReservation, on_board
from bpudeploy.boards.base import BoardOpener
from bpudeploy.events import Event, Note
from bpudeploy.measure import Candidate
from bpudeploy.nightly.baseline import Baseline
from bpudeploy.nightly.judge import Held, against_baseline
from bpudeploy.nightly.metrics import invalid
from bpudeploy.nightly.night import Outcome
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.suite import NightlyChecks

STEP = "nightly"
_LONGEST = 3
"""Times that a job is measured at most: once, again if it was invalid, and again if it looks bad."""
_SPARE_S = 900.0


@dataclass(frozen=True)
class JobRelease:
    """What is measured of a job: tonight's release, and the pinned one if it is another and still in the store."""

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
        """For how long the board is reserved: all that may be measured, and room for what is sent."""
        return _LONGEST * len(self.contenders) * self.method.max_seconds + _SPARE_S


def measure_on(
    opener: BoardOpener,
    job: JobRelease,
    suite: str,
    night: str,
    board_id: str | None,
    keep: Callable[[tuple[Measurement, ...]], None],
    emit: Callable[[Event], None],
) -> tuple[Held, ...]:
    """Measure a job's release on a board and return each look at it, the latest last.

    Args:
        suite: holds the reservation meanwhile.
        board_id: the serial number that the board must have; None accepts any.
        keep: called with what was measured, as soon as it is.

    Raises:
        Reserved: somebody else has the board.
        BoardError: the board failed, or its network did.
    """
    claim = JobReservation(job.seconds, f"{suite} measures {job.candidate.release.manifest.name}", suite)
    with on_board(opener, emit, board_id=board_id, reservation=claim) as board:
        held = [_look(board, job, night, keep)]
        if invalid(held[-1].measured):
            emit(Note(STEP, f"invalid ({', '.join(held[-1].measured.caveats)}): measured again"))
            held = [_look(board, job, night, keep)]
        if _looks_bad(held[0], job):
            emit(Note(STEP, "looks like a regression: measured again to confirm it"))
            held.append(_look(board, job, night, keep))
    return tuple(held)


def _looks_bad(held: Held, job: JobRelease) -> bool:
    findings = against_baseline([held], job.baseline, job.checks)
    return any(one.outcome is Outcome.REGRESSION and one.metric.is_latency for one in findings)


def _look(
    board: BoardJob,
    job: JobRelease,
    night: str,
    keep: Callable[[tuple[Measurement, ...]], None],
) -> Held:
    measured = board.measure(job.contenders, job.method)
    ours = measured[0].model_copy(update={"night": night})
    keep((ours, *measured[1:]))
    return Held(ours, compare(measured[1:], [ours]) if len(measured) > 1 else None)
