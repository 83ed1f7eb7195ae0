"""Garbage collection and verification of the store."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.digest import Digest
from bpudeploy.store.locks import exclusive_store
from bpudeploy.store.objects import check_object, object_digests, object_path, remove_object
from bpudeploy.store.steps import Record, all_records, record_path


@dataclass(frozen=True)
class Entry:
    """One step record, the days since its last use, and the size of its outputs in bytes."""

    record: Record
    age_days: float
    size: int


@dataclass(frozen=True)
class Collected:
    """What gc removed, or would remove in a dry run."""

    records: int
    objects: int
    size: int


def usage(root: Path) -> list[Entry]:
    """Return all records, least recently used first."""
    now = time.time()
    entries = [
        Entry(r, (now - record_path(root, r.key).stat().st_mtime) / 86_400, sum(o.size for o in r.outputs))
        for r in all_records(root)
    ]
    return sorted(entries, key=lambda entry: -entry.age_days)


def collect(root: Path, *, older_than_days: float, dry_run: bool) -> Collected:
    """Remove records unused for at least that long, objects without a record, and leftover work folders.

    Raises:
        StoreError: a run is in progress.
    """
    with exclusive_store(root):
        entries = usage(root)
        old = [e for e in entries if e.age_days >= older_than_days]
        kept = {o.digest for e in entries if e not in old for o in e.record.outputs}
        unreferenced = [d for d in object_digests(root) if d not in kept]
        size = sum(object_path(root, d).stat().st_size for d in unreferenced)
        if not dry_run:
            for entry in old:
                record_path(root, entry.record.key).unlink(missing_ok=True)
            for digest in unreferenced:
                remove_object(root, digest)
            shutil.rmtree(root / "work", ignore_errors=True)
        return Collected(len(old), len(unreferenced), size)


def verify(root: Path) -> tuple[int, list[Digest]]:
    """Hash every object and remove damaged ones, so that the next run rebuilds them.

    Returns the number of objects checked and the digests of the damaged ones.

    Raises:
        StoreError: a run is in progress.
    """
    with exclusive_store(root):
        digests = object_digests(root)
        damaged = [d for d in digests if not check_object(root, d)]
        for digest in damaged:
            remove_object(root, digest)
        return len(digests), damaged
