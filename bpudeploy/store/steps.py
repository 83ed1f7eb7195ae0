"""Step records: which key gave which objects. Written last, so that a crash leaves no half hit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, Key, key_of
from bpudeploy.files import write_atomically
from bpudeploy.store.objects import object_path, storing


@dataclass(frozen=True)
class Output:
    """One artifact of a step: its kind, digest and size in bytes."""

    kind: str
    digest: Digest
    size: int


@dataclass(frozen=True)
class Record:
    """What a step gave, and everything that its key was made of.

    ``made`` is when, in seconds since 1970 by this machine's clock; 0 in records of versions that did not note it.
    """

    step: str
    key: Key
    parts: Mapping[str, Any]
    outputs: tuple[Output, ...]
    seconds: float
    peak_mb: float
    made: int = 0


def record_path(root: Path, key: Key) -> Path:
    """Return where a key's record lies, whether or not it does."""
    return root / "steps" / key[:2] / f"{key[2:]}.json"


def write_record(root: Path, recipe: str, record: Record) -> None:
    """Make ``record`` the answer to its key, and the latest of its step for ``explain``."""
    keep_record(root, record)
    path = _latest(root, recipe, record.step)
    with storing(path):
        write_atomically(path, record.key)


def keep_record(root: Path, record: Record) -> None:
    """Make ``record`` the answer to its key."""
    path = record_path(root, record.key)
    with storing(path):
        write_atomically(path, record_text(record))


def record_text(record: Record) -> str:
    """Return a record as its file holds it."""
    return json.dumps(asdict(record), sort_keys=True, indent=1)


def record_of(text: str) -> Record | None:
    """Return the record that a file holds, or None when that makes no sense."""
    try:
        raw = json.loads(text)
        outputs = tuple(Output(o["kind"], Digest(o["digest"]), int(o["size"])) for o in raw["outputs"])
        seconds, peak_mb, made = float(raw["seconds"]), float(raw["peak_mb"]), int(raw.get("made", 0))
        return Record(raw["step"], Key(raw["key"]), raw["parts"], outputs, seconds, peak_mb, made)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def find_record(root: Path, key: Key) -> Record | None:
    """Return the record of ``key`` if it can be read and all its objects are there in full size."""
    record = _read(record_path(root, key))
    if record is None or record.key != key:
        return None
    return record if all(_there(root, output) for output in record.outputs) else None


def latest_record(root: Path, recipe: str, step: str) -> Record | None:
    """Return the record that this recipe's step used last, for saying what has changed since."""
    try:
        key = Key(_latest(root, recipe, step).read_text())
    except OSError:
        return None
    return _read(record_path(root, key))


def all_records(root: Path) -> list[Record]:
    """Return every readable record, in the order of their files' names."""
    found = (_read(path) for path in sorted((root / "steps").glob("??/*.json")))
    return [record for record in found if record is not None]


def remember(root: Path, recipe: str, record: Record) -> None:
    """Note that ``recipe`` used ``record`` now (a hit): for ``explain``, and so that gc keeps it."""
    with storing(record_path(root, record.key)), suppress(FileNotFoundError):
        os.utime(record_path(root, record.key))
    path = _latest(root, recipe, record.step)
    try:
        known = path.read_text()
    except OSError:
        known = ""
    if known != record.key:
        with storing(path):
            write_atomically(path, record.key)


def _latest(root: Path, recipe: str, step: str) -> Path:
    return root / "latest" / key_of("latest", [recipe, step])


def _there(root: Path, output: Output) -> bool:
    try:
        return object_path(root, output.digest).stat().st_size == output.size
    except OSError:
        return False


def _read(path: Path) -> Record | None:
    """Return a record, or None when there is none that makes sense: a damaged one is a miss."""
    try:
        return record_of(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None
