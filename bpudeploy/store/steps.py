"""Step records: the outputs of each key. Written last, so that a crash leaves no partial result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

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


_RECORD = TypeAdapter(Record)


def record_path(root: Path, key: Key) -> Path:
    """Return the path of a key's record, whether or not it exists."""
    return root / "steps" / key[:2] / f"{key[2:]}.json"


def keep_record(root: Path, record: Record) -> None:
    """Store ``record`` under its key."""
    path = record_path(root, record.key)
    with storing(path):
        write_atomically(path, record_text(record))


def record_text(record: Record) -> str:
    """Return the JSON text of a record."""
    return json.dumps(asdict(record), sort_keys=True, indent=1)


def record_of(text: bytes) -> Record | None:
    """Parse a record; None if the text is not a valid one."""
    try:
        return _RECORD.validate_json(text)
    except ValidationError:
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
    """Record that ``recipe`` made or used ``record`` now, for ``explain`` and gc."""
    with storing(record_path(root, record.key)), suppress(FileNotFoundError):
        os.utime(record_path(root, record.key))
    latest = _latest(root, recipe, record.step)
    with suppress(OSError):
        if latest.read_text() == record.key:
            return
    with storing(latest):
        write_atomically(latest, record.key)


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
        return record_of(path.read_bytes())
    except OSError:
        return None
