"""The notebook of a benchmark: a file of entries from which an interrupted session is resumed."""

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
"""A session interrupted longer ago starts again: the conditions of the board have changed."""


class Notebook:
    """The entries of one session, in memory and on the disk; made by ``notebook``."""

    def __init__(self, setting: Setting, entries: Sequence[Entry], stream: TextIO) -> None:
        self.setting = setting
        self.entries = list(entries)
        self._stream = stream

    def write(self, entry: Entry) -> None:
        """Add an entry; it is on its way to the disk when this returns."""
        self.entries.append(entry)
        self._stream.write(entry.model_dump_json() + "\n")
        self._stream.flush()


@contextmanager
def notebook(path: Path, setting: Setting) -> Iterator[Notebook]:
    """Open the notebook at ``path``, or begin it with ``setting``; it is removed when the session ends well.

    One that was cut lately and is of the same setting, but for its name and time, keeps both and its entries.

    Raises:
        UsageError: another process writes in it.
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
        found, entries, whole = _read(path, setting) or (setting, [], 0)
        stream.truncate(whole)  # without a last line that was cut
        if not whole:
            stream.write(setting.model_dump_json() + "\n")
        book = Notebook(found, entries, stream)
        yield book
        path.unlink()


def _read(path: Path, setting: Setting) -> tuple[Setting, list[Entry], int] | None:
    """Return what a notebook of this setting says, and how many of its bytes say it."""
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
    whole = len(head)
    for line in lines:
        try:
            entries.append(ENTRY.validate_json(line))
        except ValidationError:
            break
        whole += len(line)
    return found, entries, whole
