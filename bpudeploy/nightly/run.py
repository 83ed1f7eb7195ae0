"""A night: build every job's release, measure each on a board of its pool, judge it, and keep a record as it goes."""

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
from bpudeploy.events import Event, Note
from bpudeploy.measure import Candidate, candidate
from bpudeploy.nightly.baseline import Baseline
from bpudeploy.nightly.book import Book, alone
from bpudeploy.nightly.floor import Floor, Terms, Ticket
from bpudeploy.nightly.night import JobState, Night
from bpudeploy.nightly.prepare import NIGHTS, Prepared
from bpudeploy.nightly.suite import HERE, Job
from bpudeploy.nightly.verdict import judged
from bpudeploy.nightly.work import STEP, JobRelease, measure_on
from bpudeploy.planning.products import BINARY
from bpudeploy.planning.step import Plan
from bpudeploy.releases import RUNS, BuiltRelease, find_release
from bpudeploy.results.store import Results
from bpudeploy.run.journal import new_run_directory
from bpudeploy.run.parallel import Executor, run_all
from bpudeploy.run.runner import RunResult, run

Tell = Callable[[str, Event], None]
"""Called with the name of a job, or of a recipe, and what happened to it; from one thread at a time."""


@dataclass(frozen=True)
class Means:
    """What a night works with."""

    store: Path
    executor: Executor
    results: Results
    tell: Tell
    pause_s: float = 20.0


def run_night(prepared: Prepared, means: Means) -> tuple[Night, Path]:
    """Run a night to its end and return its record, with the directory that keeps it.

    Whatever ends it, boards are given back, what was measured is in the store of results, and the record says how
    far it came.

    Raises:
        UsageError: the suite runs already.
    """
    suite = prepared.loaded.suite
    with alone(suite.name):
        directory = new_run_directory(NIGHTS, suite.name)
        book = Book(prepared, directory)
        began = time.monotonic()
        budget_s = prepared.loaded.budget_s
        deadline = math.inf if budget_s is None else began + budget_s
        terms = Terms(deadline, suite.retries, 60 * suite.wait_minutes, means.pause_s)
        floor = Floor(prepared.loaded.jobs, prepared.out, terms, book.ended)
        _Shift(prepared, means, floor, book, directory.name).work(deadline)
        book.close()
    return book.night, directory


class _Stopped(BaseException):
    """Raised in a board's thread, at the next thing that it tells, when the night is stopped."""


@dataclass(frozen=True)
class _Shift:
    """A night at work."""

    prepared: Prepared
    means: Means
    floor: Floor
    book: Book
    night: str

    def work(self, deadline: float) -> None:
        """Build, and let each board measure what is built, until nothing is left."""
        boards = self.floor.boards
        telling = threading.Lock()

        def tell(name: str, event: Event) -> None:
            with telling:
                self.means.tell(name, event)

        with ThreadPoolExecutor(max(1, len(boards))) as pool:
            running = [pool.submit(self._board, board, tell) for board in boards]
            try:
                self._build(deadline, tell)
                for one in running:
                    one.result()
            except BaseException:
                self.floor.stop()
                raise
        self.floor.close()

    def _board(self, board: str, tell: Tell) -> None:
        with suppress(_Stopped):
            try:
                self.floor.serve(board, partial(self._measure, tell=tell))
            except BaseException:
                self.floor.stop()  # else the others would wait for its job
                raise

    def _build(self, deadline: float, tell: Tell) -> None:
        """Build all jobs; each is handed to the boards as soon as it is done."""
        planned: list[tuple[Ticket, Plan]] = []
        for ticket in self.floor.tickets:
            plan = self.prepared.plans[ticket.job.name]
            if isinstance(plan, BpudeployError):
                self.floor.over(ticket, JobState.BUILD_FAILED, plan.one_line)
            else:
                planned.append((ticket, plan))
        again = [one for one in planned if one[0].job.recompile]

        def ended(index: int, outcome: RunResult | BpudeployError) -> None:
            ticket, _ = planned[index]
            if not ticket.job.recompile or isinstance(outcome, BpudeployError):
                self._built(ticket, outcome, tell)

        plans = [plan for _, plan in planned]
        run_all(plans, self.means.store, self.means.executor, tell, until=deadline, ended=ended)
        for ticket, plan in again:  # alone, so that nothing else is in its time
            if not self.floor.is_done(ticket):
                late = OutOfTime(f"{plan.recipe}: the time was over before it was compiled again")
                outcome = self._recompiled(plan, tell) if time.monotonic() < deadline else late
                self._built(ticket, outcome, tell)

    def _recompiled(self, plan: Plan, tell: Tell) -> RunResult | BpudeployError:
        try:
            return run(plan, self.means.store, partial(tell, plan.recipe), [BINARY])
        except BpudeployError as error:
            return error

    def _built(self, ticket: Ticket, outcome: RunResult | BpudeployError, tell: Tell) -> None:
        job = ticket.job
        try:
            if isinstance(outcome, BpudeployError):
                raise outcome
            resolved = job.resolved
            directory = new_run_directory(RUNS, resolved.recipe.name)
            known = save_built(resolved, self.prepared.backends[resolved.target.backend], outcome, directory)
            measured = self._release(job, known, tell)
        except OutOfTime as error:
            self.floor.over(ticket, JobState.LEFT_OUT, error.one_line)
        except BpudeployError as error:
            self.floor.over(ticket, JobState.BUILD_FAILED, error.one_line)
        else:
            seconds = sum(step.record.seconds for step in outcome.steps.values() if not step.hit)
            result = self.book.of(job.name)
            self.book.put(result.model_copy(update={"release": known.digest, "build_seconds": seconds}))
            before = next((slot.expected.board_s for slot in self.prepared.slots if slot.job is job), 0.0)
            self.floor.ready(ticket, measured, before * len(measured.contenders))

    def _release(self, job: Job, known: BuiltRelease, tell: Tell) -> JobRelease:
        baseline = self.prepared.baselines[job.name]
        ours = candidate(known, self.means.store)
        return JobRelease(
            recipe=str(job.resolved.files[0]),
            candidate=ours,
            pinned=_pinned(baseline, ours, self.means.store, partial(tell, job.name)),
            baseline=baseline,
            method=job.resolved.recipe.benchmark,
            checks=job.checks,
        )

    def _measure(self, ticket: Ticket, board: str, tell: Tell) -> None:
        job, release = ticket.job, ticket.release
        assert release is not None  # it is ready
        suite = self.prepared.loaded.suite.name

        def emit(event: Event) -> None:
            if self.floor.stopping.is_set():
                raise _Stopped
            tell(job.name, event)

        emit(Note(STEP, f"on {board}"))
        began = time.monotonic()
        opener, board_id = self._opener(job, board)
        night = f"{suite}/{self.night}"
        held = measure_on(opener, release, suite, night, board_id, self.means.results.append, emit)
        seconds = time.monotonic() - began
        ran = {"board": board, "board_seconds": seconds / len(release.contenders), "faults": tuple(ticket.faults)}
        known = self.book.of(job.name).model_copy(update=ran)
        self.book.put(judged(known, release, held, self.means.results, self.prepared.nights))

    def _opener(self, job: Job, board: str) -> tuple[BoardOpener, str | None]:
        if board == HERE:
            return board_opener(job.resolved.target, None), None
        listed = self.prepared.loaded.boards[board]
        return opener_of(board, listed, job.resolved.target.board), listed.board_id


def _pinned(baseline: Baseline | None, ours: Candidate, store: Path, emit: Callable[[Event], None]) -> Candidate | None:
    """Return the pinned release as a contender, where it is another and all that it needs is here."""
    if baseline is None or baseline.release == ours.release.digest:
        return None
    try:
        found = candidate(find_release(baseline.release), store)
    except (UsageError, StoreError) as error:
        emit(Note(STEP, f"the pinned release cannot be measured in turns: {error.message}"))
        return None
    if found.evaluation.digest != ours.evaluation.digest:
        emit(Note(STEP, "the pinned release was built with other evaluation images: not measured in turns"))
        return None
    return found
