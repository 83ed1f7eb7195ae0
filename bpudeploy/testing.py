"""Test support for recipes, backends and tools built on bpudeploy; also used by its own tests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from bpudeploy.backends.check import check_backend
from bpudeploy.boards.embedded import open_embedded
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.events import Event

__all__ = ["EventLog", "check_backend", "embedded_board"]


def embedded_board(folder: Path, name: str = "test") -> AbstractContextManager[SshBoard]:
    """Start a board on this machine: a real SSH server on loopback with ``folder`` as its file system.

    Example:
        with embedded_board(tmp_path) as board:
            assert board.run(["uname"], timeout=10, step="test").stdout == "Linux\\n"

    Raises:
        BoardError: no server could be started.
    """
    return open_embedded(folder, name=name)


class EventLog(list[Event]):
    """Collects events: pass an instance where a function takes ``on_event``.

    Example:
        log = EventLog()
        bpudeploy.build(recipe, on_event=log)
        assert log.of_step("quantize")
    """

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of_step(self, step: str) -> list[Event]:
        """Return the events of one step, in order."""
        return [event for event in self if event.step == step]
