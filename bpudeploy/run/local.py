"""Parallel steps on this machine: one process per step, limited by jobs and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from bpudeploy.errors import BpudeployError
from bpudeploy.run.parallel import Job, JobResult, RecipeListener
from bpudeploy.run.process import StepProcess, packed_request, start_process
from bpudeploy.run.runner import StepResult
from bpudeploy.store.steps import Record

UNKNOWN_MB = 1500.0
"""Memory assumed for a step that has no record in the store."""


@dataclass(frozen=True)
class Budget:
    """Limits on parallel processes and on their total memory (MB, 10^6 bytes)."""

    jobs: int
    memory_mb: float


@dataclass(frozen=True, eq=False)
class _Running:
    """A job and its process."""

    job: Job
    listener: RecipeListener
    step: StepProcess
    expected_mb: float

    @property
    def memory_mb(self) -> float:
        """Expected memory, or current memory if that is more."""
        try:
            pages = int(Path(f"/proc/{self.step.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return self.expected_mb
        return max(self.expected_mb, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


class LocalExecutor:
    """Runs each job in its own process under ``budget``; the memory of a step is estimated from ``records``.

    ``shared`` is the URL of a shared store, from which results are fetched and to which they are added.
    """

    def __init__(self, root: Path, budget: Budget, records: Iterable[Record] = (), shared: str | None = None) -> None:
        self._root, self._budget, self._shared = root, budget, shared
        self._peaks: dict[str, float] = {}
        for record in records:
            self._peaks[record.step] = max(self._peaks.get(record.step, 0.0), record.peak_mb)
        self._running: list[_Running] = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.step.interrupt()
        for running in self._running:
            running.step.close()
        self._running = []

    def can_start(self, job: Job) -> bool:
        """Return whether the budget allows another process; always true if nothing is running."""
        if not self._running:
            return True
        used = sum(running.memory_mb for running in self._running)
        return len(self._running) < self._budget.jobs and used + self._expected(job) <= self._budget.memory_mb

    def start(self, job: Job, listener: RecipeListener) -> None:
        step = start_process(job.label, packed_request(job, self._root, self._shared), os.environ)
        self._running.append(_Running(job, listener, step, self._expected(job)))

    def wait(self) -> list[JobResult]:
        ended: list[JobResult] = []
        while self._running and not ended:
            for ready in wait([r.step.messages for r in self._running]):
                (running,) = (r for r in self._running if r.step.messages is ready)
                message = running.step.receive()
                if isinstance(message, StepResult | BpudeployError):
                    self._running.remove(running)
                    running.step.close()
                    ended.append(JobResult(running.job, message))
                else:
                    running.listener(running.job.recipe, message)
        return ended

    def _expected(self, job: Job) -> float:
        return self._peaks.get(job.step.name, UNKNOWN_MB)
