"""Locks between processes (flock): the kernel releases them even if a run is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bpudeploy.digest import Key
from bpudeploy.errors import StoreError
from bpudeploy.store.files import storing


@contextmanager
def step_lock(root: Path, key: Key, waiting: Callable[[], None]) -> Iterator[None]:
    """Lock one step; ``waiting`` is called once if another process holds it."""
    with _locked(root / "locks" / key, fcntl.LOCK_EX, waiting):
        yield


@contextmanager
def store_in_use(root: Path) -> Iterator[None]:
    """Block ``gc`` while a run may use objects that have no record yet."""
    with _locked(root / "locks" / "store", fcntl.LOCK_SH, lambda: None):
        yield


@contextmanager
def exclusive_store(root: Path) -> Iterator[None]:
    """Lock the store against runs.

    Raises:
        StoreError: a run is in progress.
    """
    path = root / "locks" / "store"
    try:
        with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, lambda: None):
            yield
    except BlockingIOError as error:
        raise StoreError("a run is using the store", hint="try again after it has finished") from error


@contextmanager
def _locked(path: Path, how: int, waiting: Callable[[], None]) -> Iterator[None]:
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if how & fcntl.LOCK_NB:
                raise
            waiting()
            fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
