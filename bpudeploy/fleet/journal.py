"""The journal of a rollout: a file of events that is only ever added to, each on the disk before what it announces.

One controller at a time holds its lock. Orders come from other processes without one: every event is a single write to
the end of the file, and the file's order is the order of things, for all who read it.
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
from bpudeploy.fleet.events import EVENT, Event, Planned

_NAME = "journal.jsonl"
_LOCK = "controller"
_PATIENCE_S = 1.0
"""How long somebody who only asks who the controller is may have the lock."""


class Journal:
    """The events of one rollout, as far as they were read; not safe to call from two threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read_new(self) -> tuple[Event, ...]:
        """Return the events that were added since the last call, whoever wrote them; the first call returns all.

        A last line without an end is left for later: it is being written, or was cut off.

        Raises:
            UsageError: there is an event that this version does not know.
        """
        with self.path.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        events = tuple(event for line in whole.split(b"\n")[:-1] if (event := self._event(line)) is not None)
        self._offset += len(whole)
        return events

    def append(self, *events: Event) -> None:
        """Add events; they are on the disk when this returns."""
        append(self.path, *events)

    def _event(self, line: bytes) -> Event | None:
        try:
            return EVENT.validate_json(line)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                return None  # it was cut off, when a controller or its machine died: what it announced never began
            raise UsageError(
                f"{self.path} has an event that this version does not know: {line[:80]!r}",
                hint="go on with the version that wrote it",
            ) from error


def append(path: Path, *events: Event) -> None:
    """Add events to a journal, from any process; they are on the disk when this returns."""
    if not events:
        return
    append_lines(path, [event.model_dump_json() for event in events])


def create(folder: Path, planned: Planned) -> Path:
    """Begin a journal in ``folder``/ROLLOUT, and return its path; whoever finds it finds it with its first event.

    Raises:
        UsageError: there is one of that name.
    """
    path = folder / planned.rollout / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_NAME}.{os.getpid()}")
    draft.touch()
    try:
        append(draft, planned)
        os.link(draft, path)
    except FileExistsError as error:
        raise UsageError(f"there is a rollout {planned.rollout!r} already", hint="give it another name") from error
    finally:
        draft.unlink()
    for made in (path.parent, folder):
        sync(made)
    return path


def rollouts(folder: Path) -> tuple[Path, ...]:
    """Return the journals in a folder, that of the newest rollout first."""
    found = [(_planned_at(path), path) for path in folder.glob(f"*/{_NAME}")]
    return tuple(path for _, path in sorted(found, reverse=True))


def _planned_at(path: Path) -> float:
    with path.open("rb") as stream:
        try:
            return EVENT.validate_json(stream.readline()).at
        except ValidationError:  # of another version; whoever reads it is told
            return path.stat().st_mtime


def planned(path: Path) -> Planned:
    """Return what a rollout is: the first event of its journal, which is there from the beginning.

    Raises:
        UsageError: this version does not know it.
    """
    first = Journal(path).read_new()[0]
    assert isinstance(first, Planned)
    return first


@contextmanager
def controlled(path: Path) -> Iterator[Journal]:
    """Be the one controller of a rollout, until the end of the block or of the process, however it comes.

    Raises:
        UsageError: there is another; it is named.
    """
    lock = path.with_name(_LOCK)
    try:
        with locked(lock, wait=_PATIENCE_S) as handle:
            os.ftruncate(handle, 0)
            os.pwrite(handle, owner().encode(), 0)
            yield Journal(path)
    except Locked as error:
        raise UsageError(
            f"rollout {path.parent.name!r} is already controlled by {_text(lock)}",
            hint="`bpudeploy fleet status` shows it; pause, resume, abort and approve work from here",
        ) from error


def controller(path: Path) -> str | None:
    """Return who controls a rollout at this moment (user@host pid N); None: nobody does."""
    lock = path.with_name(_LOCK)
    if not lock.exists():
        return None
    try:
        with locked(lock, shared=True):
            return None
    except Locked:
        return _text(lock)


def _text(lock: Path) -> str:
    with lock.open("rb") as stream:
        return stream.read(200).decode(errors="replace") or "a process that has only just started"
