"""Locks between machines, in the store that they share: held by a beating heart, taken over when it stops.

A lease is a numbered file that its holder made and rewrites. One who waits watches the highest number: when its
bytes have not changed for ``dead_s`` of the waiter's own clock, the holder counts as dead, and the waiter makes the
next number. Making is exclusive, so of several who wait one goes on; no two clocks are ever compared.
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
from bpudeploy.store.shared import ReadOnly, SharedStore, create, reaching, read, write


@dataclass(frozen=True)
class Pace:
    """How often a lease is renewed, looked at, and how long it may be silent, in seconds."""

    beat_s: float = 4.0
    look_s: float = 0.5
    dead_s: float = 20.0


@contextmanager
def lease(shared: SharedStore, key: Key, waiting: Callable[[], None], pace: Pace | None = None) -> Iterator[None]:
    """Hold one step against other machines; ``waiting`` is called once if another has it.

    Where we may not write, nothing is held: whoever may has no need to know of us.

    At most one holds it while every holder that lives beats in time and the shared store makes files exclusively.
    A holder that was stopped for ``dead_s`` and goes on runs beside its successor: both give equal keys, and the
    first record stays.

    Raises:
        StoreError: the shared store does not answer.
    """
    pace = pace or Pace()
    folder, token = shared.at(Path("leases") / key), uuid4().hex
    try:
        number = _claim(shared, folder, token, waiting, pace)
    except ReadOnly:
        yield
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(shared, f"{folder}/{number}", token, pace, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(StoreError):  # it then ends by its silence
            _release(shared, folder, number)


def _claim(shared: SharedStore, folder: str, token: str, waiting: Callable[[], None], pace: Pace) -> int:
    """Make the first number, or the one after a holder that has gone silent; return it."""
    seen: tuple[int, bytes | None] | None = None
    since, told = 0.0, False
    while True:
        held, number = _held(shared, folder), 0
        if held:
            last = (held[-1], read(shared, f"{folder}/{held[-1]}"))
            if last != seen:
                seen, since = last, time.monotonic()
            if time.monotonic() - since < pace.dead_s:
                if not told:
                    waiting()
                    told = True
                time.sleep(pace.look_s)
                continue
            number = held[-1] + 1
        with suppress(FileExistsError):
            create(shared, f"{folder}/{number}", f"{token} 0".encode())
            return number


def _beat(shared: SharedStore, path: str, token: str, pace: Pace, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(pace.beat_s):
        count += 1
        with suppress(StoreError):  # a store that is away for a moment; if for long, another takes over
            write(shared, path, f"{token} {count}".encode())


def _held(shared: SharedStore, folder: str) -> list[int]:
    with suppress(FileNotFoundError), reaching(shared):
        names = [str(path).rsplit("/", 1)[-1] for path in shared.files.ls(folder, detail=False)]
        return sorted(int(name) for name in names if name.isdigit())
    return []


def _release(shared: SharedStore, folder: str, number: int) -> None:
    """Remove our number after those that we took over from."""
    for old in _held(shared, folder):
        if old <= number:
            with suppress(FileNotFoundError), reaching(shared, writing=True):
                shared.files.rm_file(f"{folder}/{old}")
