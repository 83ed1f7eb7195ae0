"""The run directory: plan, events and results. Runs do not read it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bpudeploy.errors import StoreError
from bpudeploy.events import Event, Progress
from bpudeploy.files import append_lines


def new_run_directory(parent: Path, recipe: str) -> Path:
    """Make ``parent/2026-11-24T091500-RECIPE``, with a suffix ``-2`` and so on if it exists.

    Raises:
        StoreError: it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
    for number in range(1, 1000):
        path = parent / (f"{stamp}-{recipe}" + (f"-{number}" if number > 1 else ""))
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(f"cannot make {path}: {error.strerror}", hint="run in a writable folder") from error
        return path
    raise StoreError(f"a thousand runs of {recipe} started within one second in {parent}", hint="use another folder")


def event_writer(directory: Path) -> Callable[[Event], None]:
    """Return a listener that appends each event except Progress to ``events.jsonl``."""
    path = directory / "events.jsonl"

    def write(event: Event) -> None:
        if isinstance(event, Progress):
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": type(event).__name__,
            **asdict(event),
        }
        append_lines(path, [json.dumps(line)])

    return write
