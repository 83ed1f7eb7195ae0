"""What a Dask worker does with a job: run it in its own process, as the local executor does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

from pydantic import TypeAdapter

import bpudeploy
from bpudeploy.digest import digest_bytes, digest_file, short
from bpudeploy.errors import BpudeployError, StageError
from bpudeploy.events import Event, Progress
from bpudeploy.run.process import start_process, version_differences
from bpudeploy.run.runner import StepResult

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Dask sets these to 1 for its workers; results may depend on them, so a step runs with the planner's values."""
_EVENTS: dict[str, TypeAdapter[Event]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Event)}
_ACTIVE = ("init", "running", "paused", "closing_gracefully")
_POLL_S = 0.2
_PROGRESS_INTERVAL_S = 0.1


@cache
def software() -> Mapping[str, str]:
    """Return the versions that must be equal on planner and worker; ``code`` is a digest of bpudeploy's files."""
    folder = Path(bpudeploy.__file__).parent
    lines = [f"{p.relative_to(folder).as_posix()} {digest_file(p)}" for p in sorted(folder.rglob("*.py"))]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    code = short(digest_bytes("\n".join(lines).encode()))
    return {"python": version, "bpudeploy": bpudeploy.__version__, "code": code}


@dataclass(frozen=True)
class Task:
    """A job for a worker. ``request`` is pickled, and not unpickled if the software differs."""

    key: str
    what: str
    software: Mapping[str, str]
    request: bytes
    topic: str
    number: int
    threads: Mapping[str, str]


@dataclass(frozen=True)
class TaskResult:
    """The result of one attempt at a task, and how many events the attempt logged."""

    outcome: StepResult | BpudeployError
    attempt: str = ""
    events: int = 0


@dataclass(frozen=True)
class TaskEvent:
    """An event of one attempt at a task."""

    attempt: str
    event: Event

    @classmethod
    def unpacked(cls, attempt: str, name: str, fields: Mapping[str, Any]) -> TaskEvent:
        """Inverse of ``packed``."""
        return cls(attempt, _EVENTS[name].validate_python(fields))

    def packed(self) -> tuple[str, str, dict[str, Any]]:
        """Return the fields as plain values."""
        return self.attempt, type(self.event).__name__, asdict(self.event)


def run_task(task: Task) -> TaskResult:
    """Run a task on a Dask worker and log its events live; stop if the scheduler cancels it."""
    from distributed import get_worker

    worker, attempt, events, last = get_worker(), uuid4().hex, 0, 0.0
    if task.software != software():
        return TaskResult(_refusal(task, worker.address))
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | dict(task.threads)
    step = start_process(task.what, task.request, environment)
    try:
        while _wanted(worker, task.key):
            if not step.messages.poll(_POLL_S):
                continue
            message = step.receive()
            if isinstance(message, StepResult | BpudeployError):
                return TaskResult(message, attempt, events)
            if isinstance(message, Progress):
                if message.done < message.total and time.monotonic() - last < _PROGRESS_INTERVAL_S:
                    continue
                last = time.monotonic()
            events += 1
            worker.log_event(task.topic, [task.number, *TaskEvent(attempt, message).packed()])
        step.interrupt()
        return TaskResult(StageError(f"{task.what} was stopped"))
    finally:
        step.close()


def _wanted(worker: Any, key: str) -> bool:
    """Return whether ``key`` is still wanted: not after it was cancelled, or the scheduler or client was lost."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status.name in _ACTIVE


def _refusal(task: Task, address: str) -> StageError:
    differ = version_differences(task.software, software())
    return StageError(
        f"{task.what}: the worker {address} has other software than the planner: {differ}",
        hint="its results could differ: install the same bpudeploy on every worker, and restart them",
    )
