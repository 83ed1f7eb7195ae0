"""Locks of the store between processes: a killed run leaves none behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bpudeploy.digest import Key
from bpudeploy.errors import StoreError
from bpudeploy.files import Locked, locked
from bpudeploy.store.objects import storing


def step_lock(root: Path, key: Key, waiting: Callable[[], None]) -> AbstractContextManager[int]:
    """Hold the lock of one step; ``waiting`` is called once if another process has it."""
    return locked(_made(root, key), wait=math.inf, waiting=waiting)


def store_in_use(root: Path) -> AbstractContextManager[int]:
    """Keep ``gc`` out for as long as a run may name objects that no record names yet."""
    return locked(_made(root, "store"), shared=True, wait=math.inf)


@contextmanager
def exclusive_store(root: Path) -> Iterator[None]:
    """Hold the store with no run in it.

    Raises:
        StoreError: a run is in progress.
    """
    try:
        with locked(_made(root, "store")):
            yield
    except Locked as error:
        raise StoreError("a run is using the store", hint="try again when it has ended") from error


def _made(root: Path, name: str) -> Path:
    path = root / "locks" / name
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return path
