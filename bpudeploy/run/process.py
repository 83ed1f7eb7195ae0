"""Parent side of the process of one step, on this machine or on a cluster's worker."""

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
from bpudeploy.run.parallel import Job
from bpudeploy.run.runner import StepResult

STOP_TIMEOUT_S = 20.0
"""For an interrupted step to clean up."""


@dataclass(frozen=True)
class StepRequest:
    """Input of a step's process.

    ``root`` is its store, None for the default of the machine that runs it; ``tools`` are the versions that ``job.key``
    was computed with; ``shared`` is the URL of the shared store, if any.
    """

    job: Job
    root: Path | None
    tools: Mapping[str, str]
    shared: str | None


def packed_request(job: Job, root: Path | None, shared: str | None) -> bytes:
    """Return the request for a job whose key was computed here, as bytes for ``start_process`` on any machine."""
    tools = job.step.key_parts(tuple(a.digest for a in job.inputs))["tools"]
    packed: bytes = cloudpickle.dumps(StepRequest(job, root, tools, shared))  # stages may be closures
    return packed


def version_differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return how two sets of versions differ, as text; empty if they are equal."""
    return "; ".join(
        f"{name} {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    )


@dataclass(frozen=True, eq=False)
class StepProcess:
    """A step's process: it ends when ``control`` closes; ``messages`` carries its events and result."""

    what: str
    process: subprocess.Popen[bytes]
    control: Connection
    """The process ends when this is closed."""
    messages: Connection

    def receive(self) -> Event | StepResult | BpudeployError:
        """Wait for the next message; a result or an error is the last."""
        try:
            message: Event | StepResult | BpudeployError = self.messages.recv()
        except EOFError:
            code = self.process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code} without a result"
            return StageError(
                f"{self.what} {how}", hint="if it ran out of memory: lower --memory, --jobs 1, or fewer workers"
            )
        return message

    def interrupt(self) -> None:
        """Interrupt the process; ``close`` waits for its end."""
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Wait until the process has ended; kill it after a timeout."""
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.control.close()
        self.messages.close()


def start_process(what: str, packed: bytes, environment: Mapping[str, str]) -> StepProcess:
    """Start a new process for a packed request; not a fork, because this process may have threads and libraries."""
    requests, control = os.pipe()
    messages, answers = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", "from bpudeploy.run.worker import main; main()", str(requests), str(answers)],
        pass_fds=(requests, answers),
        stdin=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        process_group=0,  # a terminal's Ctrl-C reaches only the parent, which forwards it once
    )
    os.close(requests)
    os.close(answers)
    started = StepProcess(what, process, Connection(control, readable=False), Connection(messages))
    with suppress(BrokenPipeError):  # it has ended already: ``receive`` reports it
        started.control.send_bytes(packed)
    return started
