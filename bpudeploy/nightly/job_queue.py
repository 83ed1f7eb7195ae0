"""The queue of jobs: each board takes the most valuable job that it may run, until none is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from bpudeploy.effects.reserve import Reserved
from bpudeploy.errors import BoardError, BpudeployError
from bpudeploy.nightly.measure_job import JobRelease
from bpudeploy.nightly.night import BoardFault, JobState, utc_now
from bpudeploy.nightly.suite import LOCAL_BOARD, Job

_MAX_CONSECUTIVE_FAULTS = 2
"""After these a board is no longer used tonight."""
_POLL_S = 0.5


class QueueState(Enum):
    """The state of a job in the queue."""

    BUILDING = auto()
    READY = auto()
    RUNNING = auto()
    DONE = auto()


@dataclass
class QueuedJob:
    """A job in the queue."""

    job: Job
    state: QueueState = QueueState.BUILDING
    release: JobRelease | None = None
    expected_s: float = 0.0
    faults: list[BoardFault] = field(default_factory=list)
    failed_on: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class QueueSettings:
    """Limits of a night; ``deadline`` is by ``time.monotonic()``."""

    deadline: float
    retries: int
    wait_s: float
    """For a board that somebody else has reserved."""
    pause_s: float = 20.0
    """Between two attempts on a board."""


class JobQueue:
    """Assigns jobs to boards; thread-safe.

    Args:
        excluded: boards that are not used, each with the reason.
        on_unmeasured: called with each job that ends without a measurement, and why.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        excluded: Mapping[str, str],
        settings: QueueSettings,
        on_unmeasured: Callable[[QueuedJob, JobState, str], None],
    ) -> None:
        self.jobs = tuple(QueuedJob(job) for job in jobs)
        self.stopping = threading.Event()
        self._settings, self._on_unmeasured = settings, on_unmeasured
        self._unavailable = dict(excluded)
        self.boards = tuple(dict.fromkeys(b for job in jobs for b in job.boards if b not in excluded))
        self._working = set(self.boards)
        self._changed = threading.Condition(threading.RLock())

    def built(self, queued: QueuedJob, release: JobRelease, expected_s: float) -> None:
        """Make a built job available to the boards."""
        with self._changed:
            queued.release, queued.expected_s = release, expected_s
            self._set(queued, QueueState.READY)

    def end_unmeasured(self, queued: QueuedJob, state: JobState, why: str) -> None:
        """End a job without a measurement."""
        with self._changed:
            self._set(queued, QueueState.DONE)
            self._on_unmeasured(queued, state, why)

    def stop(self) -> None:
        """Start no more jobs."""
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()

    def serve(self, board: str, measure: Callable[[QueuedJob, str], None]) -> None:
        """Measure jobs on a board until none is left for it, or it fails.

        Args:
            measure: measures a job and records the result, or raises BoardError.
        """
        consecutive, refused_s, why = 0, 0.0, ""
        while not why and (queued := self._take(board)) is not None:
            try:
                measure(queued, board)
            except Reserved as error:
                self._set(queued, QueueState.READY)
                why = str(error) if refused_s >= self._settings.wait_s else ""
                refused_s += self._settings.pause_s
            except BoardError as error:
                consecutive += 1
                self._add_fault(queued, board, error)
                if consecutive >= _MAX_CONSECUTIVE_FAULTS:
                    why = f"{consecutive} consecutive faults, the last: {error}"
            except BpudeployError as error:
                self.end_unmeasured(queued, JobState.BUILD_FAILED, f"built, but could not be measured: {error}")
                continue
            else:
                consecutive, refused_s = 0, 0.0
                self._set(queued, QueueState.DONE)
                continue
            if not why:
                self.stopping.wait(self._settings.pause_s)
        with self._changed:
            self._working.discard(board)
            if why:
                self._unavailable[board] = why
            self._changed.notify_all()

    def close(self) -> None:
        """End the jobs that no board took, once all boards have finished."""
        for queued in self.jobs:
            if queued.state is QueueState.READY:
                boards = [board for board in queued.job.boards if board in self._unavailable]
                why = "; ".join(f"{board}: {self._unavailable[board]}" for board in boards)
                self.end_unmeasured(queued, JobState.NO_BOARD, why or "no board of its pool was free")

    def _set(self, queued: QueuedJob, state: QueueState) -> None:
        with self._changed:
            queued.state = state
            self._changed.notify_all()

    def _take(self, board: str) -> QueuedJob | None:
        with self._changed:
            while not self.stopping.is_set():
                mine = [one for one in self.jobs if board in one.job.boards and one.state is not QueueState.DONE]
                if not mine:
                    return None
                idle = board != LOCAL_BOARD or all(one.state is not QueueState.BUILDING for one in self.jobs)
                for queued in mine:
                    if queued.state is QueueState.READY and idle and self._may(queued, board) and self._fits(queued):
                        queued.state = QueueState.RUNNING
                        return queued
                self._changed.wait(_POLL_S)
            return None

    def _may(self, queued: QueuedJob, board: str) -> bool:
        """Return False if the job failed on this board and another one is available."""
        others = set(queued.job.boards) & self._working - queued.failed_on
        return board not in queued.failed_on or not others

    def _fits(self, queued: QueuedJob) -> bool:
        left = self._settings.deadline - time.monotonic()
        if queued.expected_s <= left:
            return True
        why = f"it takes about {queued.expected_s:.0f} s, but only {max(left, 0):.0f} s of the night were left"
        self.end_unmeasured(queued, JobState.LEFT_OUT, why)
        return False

    def _add_fault(self, queued: QueuedJob, board: str, error: BoardError) -> None:
        with self._changed:
            queued.faults.append(BoardFault(board=board, at=utc_now(), said=str(error)))
            queued.failed_on.add(board)
            if len(queued.faults) > self._settings.retries:
                self.end_unmeasured(queued, JobState.NO_BOARD, str(error))
            else:
                self._set(queued, QueueState.READY)
