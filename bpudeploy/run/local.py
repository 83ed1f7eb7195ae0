"""Steps beside each other on this machine: a process each, as many as there are jobs and memory for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from bpudeploy.errors import BpudeployError
from bpudeploy.run.farm import Ended, Job, Tell
from bpudeploy.run.process import StepProcess, order_of, start_process
from bpudeploy.run.runner import StepResult
from bpudeploy.store.steps import Record

UNKNOWN_MB = 1500.0
"""What a step is taken to need that this store has never seen."""


@dataclass(frozen=True)
class Budget:
    """Processes at once, and the memory (MB, 10^6 bytes) that they may need together."""

    jobs: int
    memory_mb: float


@dataclass(frozen=True, eq=False)
class _Running:
    """A job and its process."""

    job: Job
    tell: Tell
    step: StepProcess
    expected_mb: float

    @property
    def held_mb(self) -> float:
        """What it is expected to need, or what it has if that is more."""
        try:
            pages = int(Path(f"/proc/{self.step.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return self.expected_mb
        return max(self.expected_mb, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


class LocalExecutor:
    """Runs each job in a process of its own under ``budget``; ``seen`` tells what steps needed before.

    ``shared`` is the URL of a store that other machines share: looked into first, and given what was built here.
    """

    def __init__(self, root: Path, budget: Budget, seen: Iterable[Record] = (), shared: str | None = None) -> None:
        self._root, self._budget, self._shared = root, budget, shared
        self._peaks: dict[str, float] = {}
        for record in seen:
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

    def has_room(self, job: Job) -> bool:
        """Say whether there is a job and memory left for it; always so where nothing runs."""
        if not self._running:
            return True
        held = sum(running.held_mb for running in self._running)
        return len(self._running) < self._budget.jobs and held + self._expected(job) <= self._budget.memory_mb

    def start(self, job: Job, tell: Tell) -> None:
        """Start a process for ``job``."""
        packed = order_of(job, self._root, self._shared).packed()
        step = start_process(f"{job.step.name} of {job.recipe}", packed, os.environ)
        self._running.append(_Running(job, tell, step, self._expected(job)))

    def wait(self) -> list[Ended]:
        """Pass on what the processes say, until at least one has ended."""
        ended: list[Ended] = []
        while self._running and not ended:
            for ready in wait([r.step.says for r in self._running]):
                (running,) = (r for r in self._running if r.step.says is ready)
                said = running.step.hear()
                if isinstance(said, StepResult | BpudeployError):
                    self._running.remove(running)
                    running.step.close()
                    ended.append(Ended(running.job, said))
                else:
                    running.tell(running.job.recipe, said)
        return ended

    def _expected(self, job: Job) -> float:
        return self._peaks.get(job.step.name, UNKNOWN_MB)
