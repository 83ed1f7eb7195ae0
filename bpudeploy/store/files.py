"""Writing so that a crash leaves the old bytes or the new ones, never a mixture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpudeploy.errors import StoreError


@contextmanager
def storing(what: Path) -> Iterator[None]:
    """Turn an OSError of the file system into a StoreError that names ``what``."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {what}: {error.strerror}", hint="check its space and permissions, or name another --store"
        ) from error


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: written beside it, forced to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    sync(beside)
    beside.replace(path)
    sync(path.parent)
