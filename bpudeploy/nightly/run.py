"""Run a night: build every job's release, measure each on a board of its pool, evaluate it, and record progress."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bpudeploy.boardjob import opener_of
from bpudeploy.boards.base import BoardOpener
from bpudeploy.deployment import board_opener, save_built
from bpudeploy.errors import BpudeployError, OutOfTime, StoreError, UsageError
from bpudeploy.events import Event, Note, StepFinished
from bpudeploy.measure import candidate, earlier_candidate
from bpudeploy.nightly.evaluate import evaluate
from bpudeploy.nightly.job_queue import JobQueue, QueuedJob, QueueSettings, QueueState
from bpudeploy.nightly.measure_job import STEP, JobRelease, measure_job
from bpudeploy.nightly.night import JobState, Night
from bpudeploy.nightly.plan import NIGHTS, NightPlan
from bpudeploy.nightly.recorder import NightRecorder, suite_lock
from bpudeploy.nightly.suite import LOCAL_BOARD, Job
from bpudeploy.planning.products import BINARY
from bpudeploy.planning.step import Plan
from bpudeploy.releases import RUNS, BuiltRelease
from bpudeploy.results.store import Results
from bpudeploy.run.journal import new_run_directory
from bpudeploy.run.parallel import Executor, run_all
from bpudeploy.run.runner import RunResult, run


@dataclass(frozen=True)
class NightContext:
    """The plan and resources of a night."""

    plan: NightPlan
    store: Path
    executor: Executor
    results: Results
    emit: Callable[[str, Event], None]
    """Called with the name of a job or recipe and its event, from one thread at a time."""
    pause_s: float = 20.0


def run_night(context: NightContext) -> tuple[Night, Path]:
    """Run a night and return its record with its directory.

    However it ends, boards are released, measurements are in the results store, and the record has the progress.

    Raises:
        UsageError: a night of the suite is already running.
    """
    loaded = context.plan.loaded
    suite = loaded.suite
    with suite_lock(suite.name):
        directory = new_run_directory(NIGHTS, suite.name)
        recorder = NightRecorder(context.plan, directory)
        deadline = math.inf if loaded.budget_s is None else time.monotonic() + loaded.budget_s

        def unmeasured(queued: QueuedJob, state: JobState, why: str) -> None:
            recorder.update(recorder.job(queued.job.name), state=state, why=why, faults=tuple(queued.faults))

        settings = QueueSettings(deadline, suite.retries, 60 * suite.wait_minutes, context.pause_s)
        queue = JobQueue(loaded.jobs, context.plan.excluded, settings, unmeasured)
        _RunningNight(context, queue, recorder, f"{suite.name}/{directory.name}").run(deadline)
        recorder.close()
    return recorder.night, directory


class _Stopped(BaseException):
    """Raised in a board's thread at its next event after the night is stopped."""


class _RunningNight:
    def __init__(self, context: NightContext, queue: JobQueue, recorder: NightRecorder, name: str) -> None:
        self._context, self._queue, self._recorder, self._name = context, queue, recorder, name
        self._emitting = threading.Lock()

    def run(self, deadline: float) -> None:
        """Build the jobs while each board measures those that are built, until none is left."""
        with ThreadPoolExecutor(max(1, len(self._queue.boards))) as pool:
            running = [pool.submit(self._serve, board) for board in self._queue.boards]
            try:
                self._build(deadline)
                for one in running:
                    one.result()
            except BaseException:
                self._queue.stop()
                raise
        self._queue.close()

    def _emit(self, name: str, event: Event) -> None:
        with self._emitting:
            self._context.emit(name, event)

    def _serve(self, board: str) -> None:
        with suppress(_Stopped):
            try:
                self._queue.serve(board, self._measure)
            except BaseException:
                self._queue.stop()  # otherwise the other boards wait for its job
                raise

    def _build(self, deadline: float) -> None:
        """Build all jobs and queue each one as soon as it is built."""
        planned: list[tuple[QueuedJob, Plan]] = []
        for queued in self._queue.jobs:
            plan = self._context.plan.plans[queued.job.name]
            if isinstance(plan, BpudeployError):
                self._queue.end_unmeasured(queued, JobState.BUILD_FAILED, plan.one_line)
            else:
                planned.append((queued, plan))

        def ended(index: int, outcome: RunResult | BpudeployError) -> None:
            queued, _ = planned[index]
            if not queued.job.recompile or isinstance(outcome, BpudeployError):
                self._built(queued, outcome)

        plans = [plan for _, plan in planned]
        run_all(plans, self._context.store, self._context.executor, self._emit, until=deadline, ended=ended)
        for queued, plan in planned:
            if queued.job.recompile and queued.state is not QueueState.DONE:  # one at a time, to measure compile time
                late = OutOfTime(f"{plan.recipe}: the time budget ended before it was compiled again")
                self._built(queued, self._recompile(plan) if time.monotonic() < deadline else late)

    def _recompile(self, plan: Plan) -> RunResult | BpudeployError:
        try:
            return run(plan, self._context.store, partial(self._emit, plan.recipe), [BINARY])
        except BpudeployError as error:
            return error

    def _built(self, queued: QueuedJob, outcome: RunResult | BpudeployError) -> None:
        job, plan = queued.job, self._context.plan
        try:
            if isinstance(outcome, BpudeployError):
                raise outcome
            directory = new_run_directory(RUNS, job.resolved.recipe.name)
            release = save_built(job.resolved, outcome, directory)
            to_measure = self._job_release(job, release)
        except OutOfTime as error:
            self._queue.end_unmeasured(queued, JobState.LEFT_OUT, error.one_line)
        except BpudeployError as error:
            self._queue.end_unmeasured(queued, JobState.BUILD_FAILED, error.one_line)
        else:
            seconds = sum(step.record.seconds for step in outcome.steps.values() if not step.hit)
            self._recorder.update(self._recorder.job(job.name), release=release.digest, build_seconds=seconds)
            board_s = next((slot.estimate.board_s for slot in plan.slots if slot.job is job), 0.0)
            self._queue.built(queued, to_measure, board_s * len(to_measure.contenders))

    def _job_release(self, job: Job, release: BuiltRelease) -> JobRelease:
        baseline = self._context.plan.baselines[job.name]
        ours, pinned = candidate(release, self._context.store), None
        if baseline is not None and baseline.release != ours.release.digest:
            try:
                pinned = earlier_candidate(baseline.release, ours, self._context.store)
            except (UsageError, StoreError) as error:
                self._emit(job.name, Note(STEP, f"the pinned release cannot be measured interleaved: {error.message}"))
        return JobRelease(
            recipe=str(job.resolved.files[0]),
            candidate=ours,
            pinned=pinned,
            baseline=baseline,
            method=job.resolved.recipe.benchmark,
            checks=job.checks,
        )

    def _measure(self, queued: QueuedJob, board: str) -> None:
        job, release, results = queued.job, queued.release, self._context.results
        assert release is not None  # it is ready

        def emit(event: Event) -> None:
            if self._queue.stopping.is_set() and not isinstance(event, StepFinished):  # what is measured is kept
                raise _Stopped
            self._emit(job.name, event)

        emit(Note(STEP, f"on {board}"))
        began = time.monotonic()
        opener, board_id = self._opener(job, board)
        measured = measure_job(opener, release, self._name, board_id, results.append, emit)
        seconds = (time.monotonic() - began) / len(release.contenders)
        result = evaluate(self._recorder.job(job.name), release, measured, results, self._context.plan.nights)
        self._recorder.update(result, board=board, board_seconds=seconds, faults=tuple(queued.faults))

    def _opener(self, job: Job, board: str) -> tuple[BoardOpener, str | None]:
        if board == LOCAL_BOARD:
            return board_opener(job.resolved.target, None), None
        listed, spec = self._context.plan.loaded.boards[board], job.resolved.target.board
        return opener_of(board, listed.address, spec, jump=listed.jump, root=listed.root), listed.board_id
