"""Dask's own scheduler and workers as processes, each worker with a store of its own, as if on machines apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Grid:
    """A scheduler and its workers. ``address`` is what ``--executor`` takes."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stores: list[Path] = field(default_factory=list)

    @property
    def address(self) -> str:
        address: str = json.loads((self.folder / "scheduler.json").read_text())["address"]
        return address

    def scheduler(self) -> subprocess.Popen[bytes]:
        argv = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        started = self._start(argv, {})
        until((self.folder / "scheduler.json").exists, "a scheduler")
        return started

    def worker(self, environment: Mapping[str, str] | None = None, path: Path = ROOT) -> subprocess.Popen[bytes]:
        """Start one without a nanny: who kills it has killed it."""
        store = self.folder / f"store-{len(self.stores)}"
        self.stores.append(store)
        argv = ["dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        argv += ["--local-directory", str(self.folder), "--host", "127.0.0.1"]
        given = {"BPUDEPLOY_STORE": str(store), "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", **(environment or {})}
        return self._start(argv, given)

    def _start(self, argv: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        module, *rest = argv
        log = (self.folder / f"{module}-{len(self.processes)}.log").open("wb")
        command = [sys.executable, "-m", f"distributed.cli.{module}", *rest]
        command += ["--scheduler-file", str(self.folder / "scheduler.json")]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        self.processes.append(process)
        return process


@contextmanager
def grid(folder: Path, workers: int = 2) -> Iterator[Grid]:
    """Run a scheduler and so many workers."""
    made = Grid(folder)
    try:
        made.scheduler()
        for _ in range(workers):
            made.worker()
        yield made
    finally:
        for process in made.processes:
            process.kill()
        for process in made.processes:
            process.wait(30)


def until(happens: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"no {what} in {seconds:g} s"
        time.sleep(0.05)
