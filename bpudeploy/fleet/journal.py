"""The journal of a rollout: an append-only file of events, each on disk before what it announces happens.

Only one controller at a time holds the lock. Commands are added by other processes without it: every event is a single
write to the end of the file, and all readers see the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.effects.lock import owner
from bpudeploy.errors import UsageError
from bpudeploy.files import Locked, append_lines, locked, sync
from bpudeploy.fleet.events import EVENT, Event, RolloutPlanned

_NAME = "journal.jsonl"
_LOCK = "controller"
_LOCK_WAIT_S = 1.0
"""How long a process that only reads the controller's name may hold the lock."""


class Journal:
    """Reads and writes the events of one rollout; not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read_new(self) -> tuple[Event, ...]:
        """Return the events added by any process since the last call; the first call returns all.

        A last line without a newline is not read yet: it is being written, or was truncated.

        Raises:
            UsageError: an event is unknown to this version.
        """
        with self.path.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        events = tuple(event for line in whole.split(b"\n")[:-1] if (event := self._event(line)) is not None)
        self._offset += len(whole)
        return events

    def append(self, *events: Event) -> None:
        """Add events; they are on disk when this returns."""
        append(self.path, *events)

    def _event(self, line: bytes) -> Event | None:
        try:
            return EVENT.validate_json(line)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                return None  # truncated by a crash: what it announced never began
            raise UsageError(
                f"{self.path} has an event that this version does not know: {line[:80]!r}",
                hint="use the version that wrote it",
            ) from error


def append(path: Path, *events: Event) -> None:
    """Add events to a journal, from any process; they are on disk when this returns."""
    if events:
        append_lines(path, [event.model_dump_json() for event in events], create=False)


def create(folder: Path, planned: RolloutPlanned) -> Path:
    """Create the journal ``folder``/ROLLOUT/journal.jsonl and return its path; it appears with its first event.

    Raises:
        UsageError: a rollout of that name exists.
    """
    path = folder / planned.rollout / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_NAME}.{os.getpid()}")
    draft.touch()
    try:
        append(draft, planned)
        os.link(draft, path)
    except FileExistsError as error:
        raise UsageError(f"rollout {planned.rollout!r} already exists", hint="choose another name") from error
    finally:
        draft.unlink()
    for made in (path.parent, folder):
        sync(made)
    return path


def list_journals(folder: Path) -> tuple[Path, ...]:
    """Return the journals in a folder, newest first."""
    found = [(_planned_at(path), path) for path in folder.glob(f"*/{_NAME}")]
    return tuple(path for _, path in sorted(found, reverse=True))


def _planned_at(path: Path) -> float:
    with path.open("rb") as stream:
        try:
            return EVENT.validate_json(stream.readline()).at
        except ValidationError:  # of another version, which reading the journal reports
            return path.stat().st_mtime


def read_plan(path: Path) -> RolloutPlanned:
    """Return the first event of a journal.

    Raises:
        UsageError: an event is unknown to this version.
    """
    first = Journal(path).read_new()[0]
    assert isinstance(first, RolloutPlanned)
    return first


@contextmanager
def take_control(path: Path) -> Iterator[Journal]:
    """Be the only controller of a rollout until the block or the process ends.

    Raises:
        UsageError: another process controls it; the message names it.
    """
    lock = path.with_name(_LOCK)
    try:
        with locked(lock, wait=_LOCK_WAIT_S) as handle:
            os.ftruncate(handle, 0)
            os.pwrite(handle, owner().encode(), 0)
            yield Journal(path)
    except Locked as error:
        raise UsageError(
            f"rollout {path.parent.name!r} is already controlled by {_name(lock)}",
            hint="`bpudeploy fleet status` shows it; pause, resume, abort and approve work from here",
        ) from error


def controller(path: Path) -> str | None:
    """Return the process that controls a rollout now (user@host pid N), or None."""
    lock = path.with_name(_LOCK)
    if not lock.exists():
        return None
    try:
        with locked(lock, shared=True):
            return None
    except Locked:
        return _name(lock)


def _name(lock: Path) -> str:
    with lock.open("rb") as stream:
        return stream.read(200).decode(errors="replace") or "a process that has just started"
