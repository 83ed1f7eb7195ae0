"""Leases: locks between machines in their shared store, renewed by the holder and taken over when it stops.

A lease is a numbered file that its holder creates and rewrites periodically. A waiting process watches the highest
number: when its content has not changed for ``timeout_s`` by the waiter's own clock, the holder counts as dead, and the
waiter creates the next number. Creation is exclusive, so only one waiter succeeds; clocks are never compared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from bpudeploy.digest import Key
from bpudeploy.errors import StoreError
from bpudeploy.store.shared import ReadOnly, SharedStore, create, read, store_errors, write


@dataclass(frozen=True)
class LeaseTiming:
    """Intervals of renewing and polling a lease, and the time without renewal after which it expires, in seconds."""

    renew_s: float = 4.0
    poll_s: float = 0.5
    timeout_s: float = 20.0


@contextmanager
def lease(
    shared: SharedStore, key: Key, waiting: Callable[[], None], timing: LeaseTiming | None = None
) -> Iterator[None]:
    """Lock one step against other machines; ``waiting`` is called once if another machine holds it.

    Without write access nothing is locked.

    The lock is exclusive as long as holders renew in time and the shared store creates files exclusively. A holder
    that was suspended for ``timeout_s`` may run at the same time as its successor: both compute the same key, and the
    first record counts.

    Raises:
        StoreError: the shared store does not respond.
    """
    timing = timing or LeaseTiming()
    folder, token = shared.path(Path("leases") / key), uuid4().hex
    try:
        number = _acquire(shared, folder, token, waiting, timing)
    except ReadOnly:
        yield
        return
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(shared, f"{folder}/{number}", token, timing, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(StoreError):  # otherwise it expires
            _release(shared, folder, number)


def _acquire(shared: SharedStore, folder: str, token: str, waiting: Callable[[], None], timing: LeaseTiming) -> int:
    """Create the first number, or the one after an expired lease, and return it."""
    observed: tuple[int, bytes | None] | None = None
    since, notified = 0.0, False
    while True:
        numbers, number = _numbers(shared, folder), 0
        if numbers:
            last = (numbers[-1], read(shared, f"{folder}/{numbers[-1]}"))
            if last != observed:
                observed, since = last, time.monotonic()
            if time.monotonic() - since < timing.timeout_s:
                if not notified:
                    waiting()
                    notified = True
                time.sleep(timing.poll_s)
                continue
            number = numbers[-1] + 1
        with suppress(FileExistsError):
            create(shared, f"{folder}/{number}", f"{token} 0".encode())
            return number


def _renew(shared: SharedStore, path: str, token: str, timing: LeaseTiming, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(timing.renew_s):
        count += 1
        with suppress(StoreError):  # the store may be unavailable for a moment; if for longer, the lease expires
            write(shared, path, f"{token} {count}".encode())


def _numbers(shared: SharedStore, folder: str) -> list[int]:
    with suppress(FileNotFoundError), store_errors(shared):
        names = [str(path).rsplit("/", 1)[-1] for path in shared.files.ls(folder, detail=False)]
        return sorted(int(name) for name in names if name.isdigit())
    return []


def _release(shared: SharedStore, folder: str, number: int) -> None:
    """Remove our number and all older ones, the oldest first."""
    for old in _numbers(shared, folder):
        if old <= number:
            with suppress(FileNotFoundError), store_errors(shared, writing=True):
                shared.files.rm_file(f"{folder}/{old}")
