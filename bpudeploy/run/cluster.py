"""Steps beside each other on other machines: the workers of a Dask scheduler, which say what happens as it does."""

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
from bpudeploy.run.cluster_task import THREADS, Done, Parcel, Said, software, work
from bpudeploy.run.farm import Ended, Job, Tell
from bpudeploy.run.process import SECONDS_TO_END, order_of
from bpudeploy.run.runner import StepResult, artifacts_of
from bpudeploy.store.shared import SharedStore, fetch, open_shared, share_object
from bpudeploy.store.steps import remember

_SECONDS_TO_ANSWER = 10
_SECONDS_FOR_A_WORKER = 60
_SECONDS_LATE = 3.0
_LOSSES = 2
"""How many workers of our own a step may take with it before it counts as failed."""


@dataclass(frozen=True)
class Workers:
    """Processes on this machine, started and stopped with the run, that nobody else can reach."""

    count: int


@dataclass(frozen=True)
class Scheduler:
    """One that runs already, such as tcp://HOST:PORT, with workers anywhere."""

    address: str


@dataclass
class _Sent:
    """A job that is out. ``heard`` counts the events of each attempt, ``done`` is its end, which follows the last."""

    job: Job
    tell: Tell
    heard: Counter[str] = field(default_factory=Counter)
    working: bool = True
    done: Done | None = None
    done_at: float = 0.0

    def take(self, said: Said) -> None:
        """Pass an event on; a second attempt is worth a line."""
        if said.attempt not in self.heard and self.heard:
            self.tell(self.job.recipe, Note(self.job.step.name, "its worker was lost: it runs again on another"))
        self.heard[said.attempt] += 1
        self.tell(self.job.recipe, said.event)

    @property
    def over(self) -> bool:
        """Whether it has ended and all that it said has come, or should have."""
        if self.done is None:
            return False
        return self.heard[self.done.attempt] >= self.done.events or time.monotonic() > self.done_at + _SECONDS_LATE


class ClusterExecutor:
    """Sends each job to a Dask worker, which runs it in a process of its own.

    Workers of our own share the store at ``root``. Others have theirs, and take and give through ``shared``; a job
    counts as ended when its artifacts are at ``root`` too.

    Raises (from ``with``):
        UsageError: no scheduler answers, or it has no worker.
    """

    def __init__(self, where: Workers | Scheduler, root: Path, shared: str | None = None) -> None:
        self._where, self._root, self._shared_url = where, root, shared
        self._topic = f"bpudeploy-{uuid4().hex}"
        self._numbers = itertools.count()
        self._sent: dict[int, _Sent] = {}
        self._news: queue.Queue[tuple[int, Said | Done | None]] = queue.Queue()
        self._shared: SharedStore | None = None
        self._cluster: Any = None
        self._client: Any = None
        self._futures: dict[int, Any] = {}

    def __enter__(self) -> ClusterExecutor:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong comes as our own errors
        self._shared = open_shared(self._shared_url) if self._shared_url is not None else None
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        from distributed import Client

        if isinstance(self._where, Workers):
            self._cluster = _own_cluster(self._where.count)
        address = self._cluster or self._name
        try:
            self._client = Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {self._name}: {error}",
                hint="start one there with `dask scheduler`; a tls:// one needs Dask's certificates here too",
            ) from error
        self._client.subscribe_topic(self._topic, self._hear)
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS_FOR_A_WORKER)
        except TimeoutError as error:
            raise UsageError(
                f"the Dask scheduler at {self._name} has no worker", hint=f"start some: `dask worker {self._name}`"
            ) from error

    def _hear(self, event: tuple[float, list[Any]]) -> None:
        number, *said = event[1]
        self._news.put((number, Said.unpacked(*said)))

    @property
    def _name(self) -> str:
        return self._where.address if isinstance(self._where, Scheduler) else "this machine"

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            with suppress(Exception):  # it is gone: its workers stop by themselves
                self._stop_what_runs()
            with suppress(Exception):
                self._client.close(timeout=_SECONDS_TO_ANSWER)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=SECONDS_TO_END)
        self._client = self._cluster = None
        self._sent, self._futures = {}, {}

    def _stop_what_runs(self) -> None:
        """Cancel, and wait until the workers' processes have ended."""
        futures = [self._futures[n] for n, sent in self._sent.items() if sent.working and n in self._futures]
        if not futures:
            return
        keys = {future.key for future in futures}
        self._client.cancel(futures)
        end = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < end and any(keys & set(k) for k in self._client.run(_executing).values()):
            time.sleep(0.2)

    def has_room(self, job: Job) -> bool:
        """Say whether a worker has a thread left, each thread being one step at a time."""
        if not self._sent:
            return True
        return sum(sent.working for sent in self._sent.values()) < sum(self._threads().values())

    def _threads(self) -> dict[str, int]:
        try:
            threads: dict[str, int] = self._client.nthreads()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise self._gone() from error
        return threads

    def start(self, job: Job, tell: Tell) -> None:
        """Send ``job`` on its way."""
        number = next(self._numbers)
        self._sent[number] = _Sent(job, tell)
        threading.Thread(target=self._carry, args=(number, job), daemon=True).start()

    def _carry(self, number: int, job: Job) -> None:
        """Give what the job takes, have it done, fetch what it gave."""
        try:
            for artifact in job.inputs if self._shared is not None else ():
                share_object(self._shared, self._root, artifact.digest)  # type: ignore[arg-type]
            self._futures[number] = future = self._client.submit(
                work, self._parcel(number, job), key=f"bpudeploy-{self._topic[-8:]}-{number}", pure=False
            )
            done = future.result()
            self._news.put((number, None))
            if isinstance(done.outcome, StepResult) and self._shared is not None:
                done = replace(done, outcome=self._fetched(job, done.outcome))
        except BpudeployError as error:
            done = Done(error)
        except Exception as error:  # Dask's own, and what it could not read
            done = Done(self._failure(job, error))
        self._news.put((number, done))

    def _parcel(self, number: int, job: Job) -> Parcel:
        root = self._root if isinstance(self._where, Workers) else None
        packed = order_of(job, root, self._shared_url).packed()
        threads = {name: os.environ[name] for name in THREADS if name in os.environ}
        key, what = f"bpudeploy-{self._topic[-8:]}-{number}", f"{job.step.name} of {job.recipe}"
        return Parcel(key, what, software(), packed, self._topic, number, threads)

    def _fetched(self, job: Job, result: StepResult) -> StepResult:
        assert self._shared is not None
        record = fetch(self._shared, self._root, job.key)
        if record is None:
            raise StoreError(
                f"{job.step.name} of {job.recipe} ran on a worker, but {self._shared.url} does not hold what it gave",
                hint="the workers need the same shared store, and the right to write there",
            )
        remember(self._root, job.recipe, record)
        return StepResult(record, result.hit, artifacts_of(job.step, record, self._root))

    def _failure(self, job: Job, error: Exception) -> BpudeployError:
        from distributed import KilledWorker

        what = f"{job.step.name} of {job.recipe}"
        if isinstance(error, KilledWorker):
            return StageError(
                f"{what} ended with its worker, more than once",
                hint="if its machine ran out of memory: fewer workers there, or one with more",
            )
        if self._client is None or self._client.status != "running":
            return self._gone()
        return StageError(
            f"{what} could not run on a worker: {type(error).__name__}: {error}",
            hint="is the same bpudeploy installed on every worker?",
        )

    def _gone(self) -> StageError:
        return StageError(
            f"the Dask scheduler at {self._name} is gone",
            hint="run again when it is back: what had ended is in the store",
        )

    def wait(self) -> list[Ended]:
        """Pass on what the workers say, until a job has ended.

        Raises:
            StageError: the scheduler is gone, or all workers are and none comes back.
        """
        without = time.monotonic()
        while self._sent:
            try:
                self._note(*self._news.get(timeout=1.0))
            except queue.Empty:
                without = self._check(without)
            over = [number for number, sent in self._sent.items() if sent.over]
            if over:
                return [self._end(number) for number in over]
        return []

    def _note(self, number: int, news: Said | Done | None) -> None:
        """Take one piece of news: an event, an end, or None: its worker is free."""
        sent = self._sent.get(number)
        if sent is None:
            return
        if isinstance(news, Said):
            sent.take(news)
            return
        sent.working = False
        if news is not None:
            sent.done, sent.done_at = news, time.monotonic()

    def _end(self, number: int) -> Ended:
        sent = self._sent.pop(number)
        self._futures.pop(number, None)
        assert sent.done is not None
        return Ended(sent.job, sent.done.outcome)

    def _check(self, without: float) -> float:
        """Look whether anybody still works; return since when nobody may."""
        if self._client.status != "running":
            raise self._gone()
        if self._threads():
            return time.monotonic()
        if time.monotonic() - without > _SECONDS_FOR_A_WORKER:
            raise StageError(
                f"the Dask scheduler at {self._name} has no worker left",
                hint="start some and run again: what had ended is in the store",
            )
        return without


def _executing(dask_worker: Any) -> list[str]:
    """Return the keys that a worker is at; runs there."""
    return [task.key for task in dask_worker.state.tasks.values() if task.state in ("executing", "cancelled")]


def _own_cluster(count: int) -> Any:
    """Start workers that listen on this machine only and take no one without this run's certificate."""
    import dask
    from distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": _LOSSES, "distributed.nanny.pre-spawn-environ": {}}
    with dask.config.set(settings), _deaf_to_ctrl_c():
        return LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a step is a process of its own, which Dask does not weigh
            dashboard_address="127.0.0.1:0",
            security=True,
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not reach: it comes here, and is passed on once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
