"""The log of a benchmark session: entries in a file, from which an interrupted session is resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from bpudeploy.errors import UsageError
from bpudeploy.files import Locked, locked
from bpudeploy.results.session import ENTRY, Entry, Setting

_FRESH_S = 6 * 3600
"""A session interrupted longer ago is started again, because the board's conditions have changed."""


class SessionLog:
    """The entries of one session, in memory and on disk; made by ``open_session_log``."""

    def __init__(self, setting: Setting, entries: Sequence[Entry], stream: TextIO) -> None:
        self.setting = setting
        self.entries = list(entries)
        self._stream = stream

    def write(self, entry: Entry) -> None:
        """Append an entry and flush it to the file."""
        self.entries.append(entry)
        self._stream.write(entry.model_dump_json() + "\n")
        self._stream.flush()


@contextmanager
def open_session_log(path: Path, setting: Setting) -> Iterator[SessionLog]:
    """Open the log at ``path``, or create it for ``setting``; it is removed when the session succeeds.

    A recently interrupted log with an equal setting is resumed, with its session id, time and entries.

    Raises:
        UsageError: another process is writing to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except Locked as error:
            raise UsageError(
                f"this benchmark of {setting.board} is already running ({path} is locked)",
                hint="wait for it, or stop it",
            ) from error
        stream = stack.enter_context(path.open("a+"))
        found, entries, size = _read(path, setting) or (setting, [], 0)
        stream.truncate(size)  # drops an incomplete last line
        if not size:
            stream.write(setting.model_dump_json() + "\n")
        yield SessionLog(found, entries, stream)
        path.unlink()


def _read(path: Path, setting: Setting) -> tuple[Setting, list[Entry], int] | None:
    """Return the setting and entries of a log that can be resumed, and the bytes of its complete lines."""
    if time.time() - path.stat().st_mtime > _FRESH_S:
        return None
    head, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    try:
        found = Setting.model_validate_json(head)
    except ValidationError:
        return None
    if setting.model_copy(update={"session": found.session, "made": found.made}) != found:
        return None
    entries: list[Entry] = []
    size = len(head)
    for line in lines:
        try:
            entries.append(ENTRY.validate_json(line))
        except ValidationError:
            break
        size += len(line)
    return found, entries, size
