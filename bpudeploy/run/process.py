"""The process of one step, from the side of the one who starts it: on this machine, or on a cluster's worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cloudpickle

from bpudeploy.errors import BpudeployError, StageError
from bpudeploy.events import Event
from bpudeploy.run.farm import Job
from bpudeploy.run.runner import StepResult

SECONDS_TO_END = 20.0
"""For a step that is told to stop to clean up after itself."""


@dataclass(frozen=True)
class Order:
    """What a step's process is given.

    ``root`` is its store, None for the one of the machine where it runs; ``tools`` are those that ``job.key`` was
    made with; ``shared`` is the URL of the store that machines share, if they do.
    """

    job: Job
    root: Path | None
    tools: Mapping[str, str]
    shared: str | None

    def packed(self) -> bytes:
        """Return the order as bytes for ``start_process``, on this machine or another; stages may be closures."""
        packed: bytes = cloudpickle.dumps(self)
        return packed


def order_of(job: Job, root: Path | None, shared: str | None) -> Order:
    """Return the order for a job whose key was made on this machine."""
    return Order(job, root, job.step.key_parts(tuple(a.digest for a in job.inputs))["tools"], shared)


@dataclass(frozen=True, eq=False)
class StepProcess:
    """A step's process: it lives while ``lives`` is open, and ``says`` what happens."""

    what: str
    process: subprocess.Popen[bytes]
    lives: Connection
    says: Connection

    def hear(self) -> Event | StepResult | BpudeployError:
        """Wait for the next thing that it says; a result or an error is its last."""
        try:
            said: Event | StepResult | BpudeployError = self.says.recv()
        except EOFError:
            code = self.process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code} and said nothing"
            return StageError(
                f"{self.what} {how}", hint="if it ran out of memory: a smaller --memory, or --jobs 1; fewer workers"
            )
        return said

    def interrupt(self) -> None:
        """Tell it to stop; ``close`` waits for that."""
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Wait until it has ended, and end it if it does not."""
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.lives.close()
        self.says.close()


def start_process(what: str, packed: bytes, environment: Mapping[str, str]) -> StepProcess:
    """Start a process for a packed order: a new one, as this one may have threads and libraries loaded."""
    given, lives = os.pipe()
    says, answers = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", "from bpudeploy.run.worker import main; main()", str(given), str(answers)],
        pass_fds=(given, answers),
        stdin=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        process_group=0,  # a terminal's Ctrl-C comes to the one who started us, and is passed on once
    )
    os.close(given)
    os.close(answers)
    started = StepProcess(what, process, Connection(lives, readable=False), Connection(says))
    with suppress(BrokenPipeError):  # it is gone already: ``hear`` tells
        started.lives.send_bytes(packed)
    return started
