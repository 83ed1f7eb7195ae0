"""Keeping the store small and honest: what it holds, what may go, what is damaged."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.digest import Digest
from bpudeploy.store.locks import store_exclusively
from bpudeploy.store.objects import check_object, object_digests, object_path, remove_object
from bpudeploy.store.steps import Record, all_records, record_path


@dataclass(frozen=True)
class Entry:
    """One step record, with its age (since it was last used) and the bytes that it names."""

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
    """Return every record, the longest unused first."""
    now = time.time()
    entries = [
        Entry(r, (now - record_path(root, r.key).stat().st_mtime) / 86_400, sum(o.size for o in r.outputs))
        for r in all_records(root)
    ]
    return sorted(entries, key=lambda entry: -entry.age_days)


def collect(root: Path, *, older_than_days: float, dry_run: bool) -> Collected:
    """Remove records unused for at least that long, then every object that no record names, and dead work folders.

    Raises:
        StoreError: a run is in progress.
    """
    with store_exclusively(root):
        entries = usage(root)
        old = [e for e in entries if e.age_days >= older_than_days]
        kept = {o.digest for e in entries if e not in old for o in e.record.outputs}
        loose = [d for d in object_digests(root) if d not in kept]
        size = sum(object_path(root, d).stat().st_size for d in loose)
        if not dry_run:
            for entry in old:
                record_path(root, entry.record.key).unlink(missing_ok=True)
            for digest in loose:
                remove_object(root, digest)
            shutil.rmtree(root / "work", ignore_errors=True)
        return Collected(len(old), len(loose), size)


def verify(root: Path) -> tuple[int, list[Digest]]:
    """Hash every object again; remove the damaged, so that the next run rebuilds them.

    Returns the number of objects read, and the digests that were damaged.

    Raises:
        StoreError: a run is in progress.
    """
    with store_exclusively(root):
        digests = object_digests(root)
        damaged = [d for d in digests if not check_object(root, d)]
        for digest in damaged:
            remove_object(root, digest)
        return len(digests), damaged
