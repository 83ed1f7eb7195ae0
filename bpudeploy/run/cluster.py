"""Parallel steps on the workers of a Dask scheduler, with live events."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from bpudeploy.errors import BpudeployError, StageError, StoreError, UsageError
from bpudeploy.events import Note
from bpudeploy.run.cluster_task import THREADS, Task, TaskEvent, TaskResult, run_task, software
from bpudeploy.run.parallel import Job, JobResult, RecipeListener
from bpudeploy.run.process import STOP_TIMEOUT_S, packed_request
from bpudeploy.run.runner import StepResult, artifacts_of
from bpudeploy.store.shared import SharedStore, fetch, open_shared, share_object
from bpudeploy.store.steps import remember

_CONNECT_TIMEOUT_S = 10
_WORKER_TIMEOUT_S = 60
_LATE_EVENTS_S = 3.0
_ALLOWED_FAILURES = 2
"""How many local workers a step may kill before it counts as failed."""


@dataclass
class _SubmittedJob:
    """A submitted job. ``received`` counts the events of each attempt; ``result`` may arrive before the last event."""

    job: Job
    listener: RecipeListener
    future: Any = None
    """Dask's; None until the job's inputs are shared."""
    received: Counter[str] = field(default_factory=Counter)
    occupies_worker: bool = True
    result: TaskResult | None = None
    result_at: float = 0.0

    def forward(self, event: TaskEvent) -> None:
        """Forward an event, and report a second attempt."""
        if event.attempt not in self.received and self.received:
            self.listener(self.job.recipe, Note(self.job.step.name, "its worker was lost: running again on another"))
        self.received[event.attempt] += 1
        self.listener(self.job.recipe, event.event)

    @property
    def finished(self) -> bool:
        """Whether the result and all events have arrived, or the wait for late events is over."""
        if self.result is None:
            return False
        return (
            self.received[self.result.attempt] >= self.result.events
            or time.monotonic() > self.result_at + _LATE_EVENTS_S
        )


class ClusterExecutor:
    """Sends each job to a Dask worker, which runs it in its own process.

    ``where`` is the address of a running scheduler, such as tcp://HOST:PORT, or a number of workers to run on this
    machine for the time of the run, not reachable by others. Local workers use the store at ``root``. Others have their
    own and exchange artifacts through ``shared``; a job has ended when its artifacts are at ``root`` too.

    Raises (from ``with``):
        UsageError: no scheduler answers, or it has no worker.
    """

    def __init__(self, where: int | str, root: Path, shared: str | None = None) -> None:
        self._where, self._root, self._shared_url = where, root, shared
        self._topic = f"bpudeploy-{uuid4().hex}"
        self._numbers = itertools.count()
        self._sent: dict[int, _SubmittedJob] = {}
        self._messages: queue.Queue[tuple[int, TaskEvent | TaskResult | None]] = queue.Queue()
        self._shared: SharedStore | None = None
        self._cluster: Any = None
        self._client: Any = None

    def __enter__(self) -> ClusterExecutor:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures are reported as our own errors
        self._shared = open_shared(self._shared_url) if self._shared_url is not None else None
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        from distributed import Client

        if isinstance(self._where, int):
            self._cluster = _local_cluster(self._where)
        address = self._cluster or self._name
        try:
            self._client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {self._name}: {error}",
                hint="start one there with `dask scheduler`; a tls:// one needs Dask's certificates here too",
            ) from error
        self._client.subscribe_topic(self._topic, self._on_event)
        try:
            self._client.wait_for_workers(1, timeout=_WORKER_TIMEOUT_S)
        except TimeoutError as error:
            raise UsageError(
                f"the Dask scheduler at {self._name} has no worker", hint=f"start some: `dask worker {self._name}`"
            ) from error

    def _on_event(self, event: tuple[float, list[Any]]) -> None:
        number, *packed = event[1]
        self._messages.put((number, TaskEvent.unpacked(*packed)))

    @property
    def _name(self) -> str:
        return self._where if isinstance(self._where, str) else "this machine"

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            with suppress(Exception):  # without a scheduler, its workers stop by themselves
                self._stop_running()
            with suppress(Exception):
                self._client.close(timeout=_CONNECT_TIMEOUT_S)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=STOP_TIMEOUT_S)
        self._client = self._cluster = None
        self._sent = {}

    def _stop_running(self) -> None:
        """Cancel the running jobs, and wait until the workers have stopped them."""
        futures = [sent.future for sent in self._sent.values() if sent.occupies_worker and sent.future is not None]
        if not futures:
            return
        keys = {future.key for future in futures}
        self._client.cancel(futures)
        end = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < end and any(keys & set(k) for k in self._client.run(_executing).values()):
            time.sleep(0.2)

    def can_start(self, job: Job) -> bool:
        """Return whether a worker has a free thread; each thread runs one step at a time."""
        if not self._sent:
            return True
        return sum(sent.occupies_worker for sent in self._sent.values()) < sum(self._threads().values())

    def _threads(self) -> dict[str, int]:
        try:
            threads: dict[str, int] = self._client.nthreads()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise self._scheduler_lost() from error
        return threads

    def start(self, job: Job, listener: RecipeListener) -> None:
        number = next(self._numbers)
        self._sent[number] = sent = _SubmittedJob(job, listener)
        threading.Thread(target=self._run, args=(number, sent), daemon=True).start()

    def _run(self, number: int, sent: _SubmittedJob) -> None:
        """Share the job's inputs, run it on a worker, and fetch its outputs."""
        job = sent.job
        try:
            if self._shared is not None:
                for artifact in job.inputs:
                    share_object(self._shared, self._root, artifact.digest)
            task = self._task(number, job)
            sent.future = self._client.submit(run_task, task, key=task.key, pure=False)
            done = sent.future.result()
            self._messages.put((number, None))
            if isinstance(done.outcome, StepResult) and self._shared is not None:
                done = replace(done, outcome=self._fetched(job, done.outcome))
        except BpudeployError as error:
            done = TaskResult(error)
        except Exception as error:  # errors of Dask, including unreadable results
            done = TaskResult(self._failure(job, error))
        self._messages.put((number, done))

    def _task(self, number: int, job: Job) -> Task:
        packed = packed_request(job, self._root if isinstance(self._where, int) else None, self._shared_url)
        threads = {name: os.environ[name] for name in THREADS if name in os.environ}
        key = f"bpudeploy-{self._topic[-8:]}-{number}"
        return Task(key, job.label, software(), packed, self._topic, number, threads)

    def _fetched(self, job: Job, result: StepResult) -> StepResult:
        assert self._shared is not None
        record = fetch(self._shared, self._root, job.key)
        if record is None:
            raise StoreError(
                f"{job.label} ran on a worker, but {self._shared.url} does not have its outputs",
                hint="the workers need write access to the same shared store",
            )
        remember(self._root, job.recipe, record)
        return StepResult(record, result.hit, artifacts_of(job.step, record, self._root))

    def _failure(self, job: Job, error: Exception) -> BpudeployError:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return StageError(
                f"{job.label} lost its worker more than once",
                hint="if the machine ran out of memory: run fewer workers on it, or use a larger one",
            )
        if self._client is None or self._client.status != "running":
            return self._scheduler_lost()
        return StageError(
            f"{job.label} could not run on a worker: {type(error).__name__}: {error}",
            hint="is the same bpudeploy installed on every worker?",
        )

    def _scheduler_lost(self) -> StageError:
        return StageError(
            f"the Dask scheduler at {self._name} no longer answers",
            hint="run again when it is back: finished steps are in the store",
        )

    def wait(self) -> list[JobResult]:
        """Forward the workers' events until a job has ended.

        Raises:
            StageError: the scheduler is lost, or all workers are and none returns.
        """
        workers_seen = time.monotonic()
        while self._sent:
            try:
                self._handle(*self._messages.get(timeout=1.0))
            except queue.Empty:
                workers_seen = self._check_workers(workers_seen)
            finished = [number for number, sent in self._sent.items() if sent.finished]
            if finished:
                return [self._end(number) for number in finished]
        return []

    def _handle(self, number: int, message: TaskEvent | TaskResult | None) -> None:
        """Handle an event, a result, or None: the worker is free again."""
        sent = self._sent.get(number)
        if sent is None:
            return
        if isinstance(message, TaskEvent):
            sent.forward(message)
            return
        sent.occupies_worker = False
        if message is not None:
            sent.result, sent.result_at = message, time.monotonic()

    def _end(self, number: int) -> JobResult:
        sent = self._sent.pop(number)
        assert sent.result is not None
        return JobResult(sent.job, sent.result.outcome)

    def _check_workers(self, last_seen: float) -> float:
        """Return when there last was a worker.

        Raises:
            StageError: too long ago, or the scheduler is lost.
        """
        if self._client.status != "running":
            raise self._scheduler_lost()
        if self._threads():
            return time.monotonic()
        if time.monotonic() - last_seen > _WORKER_TIMEOUT_S:
            raise StageError(
                f"the Dask scheduler at {self._name} has no worker left",
                hint="start some and run again: finished steps are in the store",
            )
        return last_seen


def _executing(dask_worker: Any) -> list[str]:
    """Return the keys that a worker is executing; runs on the worker."""
    return [task.key for task in dask_worker.state.tasks.values() if task.state in ("executing", "cancelled")]


def _local_cluster(count: int) -> Any:
    """Start workers that listen on this machine only and require this run's certificate."""
    import dask
    from distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES, "distributed.nanny.pre-spawn-environ": {}}
    with dask.config.set(settings), _ignoring_ctrl_c():
        return LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a step runs in its own process, whose memory Dask does not see
            dashboard_address="127.0.0.1:0",
            security=True,
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Make child processes ignore a terminal's Ctrl-C; this process forwards it once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
