"""Atomic writes: after a crash a file has either its old or its new content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpudeploy.errors import StoreError


@contextmanager
def storing(what: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names ``what``."""
    try:
        yield
    except OSError as error:
        hint = "check free space and permissions, or use another --store"
        raise StoreError(f"cannot write {what}: {error.strerror}", hint=hint) from error


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of ``path``: write a temporary file in its folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
