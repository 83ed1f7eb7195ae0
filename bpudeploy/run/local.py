"""Steps beside each other on this machine: a process each, as many as there are jobs and memory for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cloudpickle

from bpudeploy.errors import BpudeployError, StageError
from bpudeploy.events import Event
from bpudeploy.run.farm import Ended, Job, Tell
from bpudeploy.run.runner import StepResult
from bpudeploy.store.steps import Record

UNKNOWN_MB = 1500.0
"""What a step is taken to need that this store has never seen."""
_SECONDS_TO_END = 20.0


@dataclass(frozen=True)
class Budget:
    """Processes at once, and the memory (MB, 10^6 bytes) that they may need together."""

    jobs: int
    memory_mb: float


@dataclass(frozen=True, eq=False)
class _Running:
    """A worker: it lives while ``lives`` is open, and ``says`` what happens."""

    job: Job
    tell: Tell
    process: subprocess.Popen[bytes]
    lives: Connection
    says: Connection
    expected_mb: float

    @property
    def held_mb(self) -> float:
        """What it is expected to need, or what it has if that is more."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return self.expected_mb
        return max(self.expected_mb, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    def close(self) -> None:
        """Let go of it."""
        self.process.wait()
        self.lives.close()
        self.says.close()


class LocalExecutor:
    """Runs each job in a process of its own under ``budget``; ``seen`` tells what steps needed before."""

    def __init__(self, root: Path, budget: Budget, seen: Iterable[Record] = ()) -> None:
        self._root, self._budget = root, budget
        self._peaks: dict[str, float] = {}
        for record in seen:
            self._peaks[record.step] = max(self._peaks.get(record.step, 0.0), record.peak_mb)
        self._running: list[_Running] = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.process.send_signal(signal.SIGINT)
        for running in self._running:
            try:
                running.process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                running.process.kill()
            running.close()
        self._running = []

    def has_room(self, job: Job) -> bool:
        """Say whether there is a job and memory left for it; always so where nothing runs."""
        if not self._running:
            return True
        held = sum(running.held_mb for running in self._running)
        return len(self._running) < self._budget.jobs and held + self._expected(job) <= self._budget.memory_mb

    def start(self, job: Job, tell: Tell) -> None:
        """Start a process for ``job``: a new one, as this one may have threads and libraries loaded."""
        given, lives = os.pipe()
        says, answers = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", "from bpudeploy.run.worker import main; main()", str(given), str(answers)],
            pass_fds=(given, answers),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,  # a terminal's Ctrl-C comes here, and is passed on once
        )
        os.close(given)
        os.close(answers)
        running = _Running(job, tell, process, Connection(lives, readable=False), Connection(says), self._expected(job))
        self._running.append(running)
        with suppress(BrokenPipeError):  # it is gone already: ``wait`` tells
            running.lives.send_bytes(cloudpickle.dumps((job, self._root)))  # stages may be closures

    def wait(self) -> list[Ended]:
        """Pass on what the processes say, until at least one has ended."""
        ended: list[Ended] = []
        while self._running and not ended:
            for ready in wait([r.says for r in self._running]):
                (running,) = (r for r in self._running if r.says is ready)
                outcome = _heard(running)
                if outcome is not None:
                    self._running.remove(running)
                    running.close()
                    ended.append(Ended(running.job, outcome))
        return ended

    def _expected(self, job: Job) -> float:
        return self._peaks.get(job.step.name, UNKNOWN_MB)


def _heard(running: _Running) -> StepResult | BpudeployError | None:
    """Take one thing that a process says; return its outcome if that was its last."""
    try:
        said: Event | StepResult | BpudeployError = running.says.recv()
    except EOFError:
        code = running.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code} and said nothing"
        return StageError(
            f"{running.job.step.name} of {running.job.recipe} {how}",
            hint="if it ran out of memory: a smaller --memory, or --jobs 1",
        )
    if isinstance(said, StepResult | BpudeployError):
        return said
    running.tell(running.job.recipe, said)
    return None
