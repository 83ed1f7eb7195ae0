"""Step records: the outputs of each key. Written last, so that a crash leaves no partial result."""

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
class StepOutput:
    """One artifact of a step: its kind, digest and size in bytes."""

    kind: str
    digest: Digest
    size: int


@dataclass(frozen=True)
class Record:
    """The outputs of a step, and all parts of its key.

    ``made`` is the Unix time of the run in seconds; 0 in records of older versions.
    """

    step: str
    key: Key
    parts: Mapping[str, Any]
    outputs: tuple[StepOutput, ...]
    seconds: float
    peak_mb: float
    made: int = 0


def record_path(root: Path, key: Key) -> Path:
    """Return the path of a key's record, whether or not it exists."""
    return root / "steps" / key[:2] / f"{key[2:]}.json"


def write_record(root: Path, recipe: str, record: Record) -> None:
    """Store ``record`` under its key, and as the latest of its step for ``explain``."""
    keep_record(root, record)
    _set_latest(root, recipe, record)


def keep_record(root: Path, record: Record) -> None:
    """Store ``record`` under its key."""
    path = record_path(root, record.key)
    with storing(path):
        write_atomically(path, record_text(record))


def record_text(record: Record) -> str:
    """Return the JSON text of a record."""
    return json.dumps(asdict(record), sort_keys=True, indent=1)


def record_of(text: str) -> Record | None:
    """Parse a record; None if the text is not a valid one."""
    try:
        raw = json.loads(text)
        outputs = tuple(StepOutput(o["kind"], Digest(o["digest"]), int(o["size"])) for o in raw["outputs"])
        seconds, peak_mb, made = float(raw["seconds"]), float(raw["peak_mb"]), int(raw.get("made", 0))
        return Record(raw["step"], Key(raw["key"]), raw["parts"], outputs, seconds, peak_mb, made)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def find_record(root: Path, key: Key) -> Record | None:
    """Return the record of ``key`` if it is readable and all its objects exist with the right size."""
    record = _read(record_path(root, key))
    if record is None or record.key != key:
        return None
    return record if all(_exists(root, output) for output in record.outputs) else None


def latest_record(root: Path, recipe: str, step: str) -> Record | None:
    """Return the record that this recipe's step used last, to explain what has changed since."""
    try:
        key = Key(_latest(root, recipe, step).read_text())
    except OSError:
        return None
    return _read(record_path(root, key))


def all_records(root: Path) -> list[Record]:
    """Return all readable records, sorted by file name."""
    found = (_read(path) for path in sorted((root / "steps").glob("??/*.json")))
    return [record for record in found if record is not None]


def remember(root: Path, recipe: str, record: Record) -> None:
    """Record that ``recipe`` used ``record`` now (a cache hit), for ``explain`` and gc."""
    with storing(record_path(root, record.key)), suppress(FileNotFoundError):
        os.utime(record_path(root, record.key))
    with suppress(OSError):
        if _latest(root, recipe, record.step).read_text() == record.key:
            return
    _set_latest(root, recipe, record)


def _set_latest(root: Path, recipe: str, record: Record) -> None:
    path = _latest(root, recipe, record.step)
    with storing(path):
        write_atomically(path, record.key)


def _latest(root: Path, recipe: str, step: str) -> Path:
    return root / "latest" / key_of("latest", [recipe, step])


def _exists(root: Path, output: StepOutput) -> bool:
    try:
        return object_path(root, output.digest).stat().st_size == output.size
    except OSError:
        return False


def _read(path: Path) -> Record | None:
    """Return a record, or None if it is missing or damaged."""
    try:
        return record_of(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None
