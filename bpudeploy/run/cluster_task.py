"""What a Dask worker does with a job: the same process of its own that a farm on one machine gives it."""

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

import bpudeploy
from bpudeploy.digest import digest_bytes, digest_file, short
from bpudeploy.errors import BpudeployError, StageError
from bpudeploy.events import Event, Progress, StepFinished
from bpudeploy.run.process import start_process
from bpudeploy.run.runner import StepResult

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What Dask sets to 1 for its workers. Sums may depend on it, so a step runs with the planner's own values."""
_EVENTS = {kind.__name__: kind for kind in get_args(Event)}
_WORKS = ("init", "running", "paused", "closing_gracefully")
_LOOK_S = 0.2
_PROGRESS_S = 0.1


@dataclass(frozen=True)
class Software:
    """What must be equal where a step is planned and where it runs; ``code`` is a digest of bpudeploy's own files."""

    python: str
    bpudeploy: str
    code: str


@cache
def software() -> Software:
    """Return this process's own."""
    folder = Path(bpudeploy.__file__).parent
    lines = [f"{p.relative_to(folder).as_posix()} {digest_file(p)}" for p in sorted(folder.rglob("*.py"))]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Software(version, bpudeploy.__version__, short(digest_bytes("\n".join(lines).encode())))


@dataclass(frozen=True)
class Parcel:
    """A job on its way to a worker. ``order`` is packed: it is not looked into where the software differs."""

    key: str
    what: str
    software: Software
    order: bytes
    topic: str
    number: int
    threads: Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """What came of a parcel in one attempt, and how many events that one said on the topic."""

    outcome: StepResult | BpudeployError
    attempt: str = ""
    events: int = 0


@dataclass(frozen=True)
class Said:
    """An event of one attempt at a parcel."""

    attempt: str
    event: Event

    @classmethod
    def unpacked(cls, attempt: str, name: str, fields: Mapping[str, Any]) -> Said:
        """Return what ``packed`` took apart."""
        event: Event = _EVENTS[name](**fields)
        if isinstance(event, StepFinished):
            event = StepFinished(**{**fields, "digests": tuple(fields["digests"])})
        return cls(attempt, event)

    def packed(self) -> tuple[str, str, dict[str, Any]]:
        """Return it as plain values."""
        return self.attempt, type(self.event).__name__, asdict(self.event)


def work(parcel: Parcel) -> Done:
    """Carry out a parcel on a Dask worker; events go out live. Stops when the scheduler no longer wants it."""
    from distributed import get_worker

    worker, attempt, said, last = get_worker(), uuid4().hex, 0, 0.0
    if parcel.software != software():
        return Done(_refusal(parcel, worker.address))
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | dict(parcel.threads)
    step = start_process(parcel.what, parcel.order, environment)
    try:
        while _wanted(worker, parcel.key):
            if not step.says.poll(_LOOK_S):
                continue
            heard = step.hear()
            if isinstance(heard, StepResult | BpudeployError):
                return Done(heard, attempt, said)
            if isinstance(heard, Progress):
                if heard.done < heard.total and time.monotonic() - last < _PROGRESS_S:
                    continue
                last = time.monotonic()
            said += 1
            worker.log_event(parcel.topic, [parcel.number, *Said(attempt, heard).packed()])
        step.interrupt()
        return Done(StageError(f"{parcel.what} was stopped"))
    finally:
        step.close()


def _wanted(worker: Any, key: str) -> bool:
    """Say whether the scheduler wants ``key``: not when it was cancelled, nor when it or the one who asked is gone."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status.name in _WORKS


def _refusal(parcel: Parcel, address: str) -> StageError:
    theirs, ours = asdict(parcel.software), asdict(software())
    differ = [f"{name} {theirs[name]} there, {ours[name]} here" for name in theirs if theirs[name] != ours[name]]
    return StageError(
        f"{parcel.what}: the worker {address} has other software than the one who plans: {'; '.join(differ)}",
        hint="its bytes might be others: install the same bpudeploy on every worker, and start them again",
    )
