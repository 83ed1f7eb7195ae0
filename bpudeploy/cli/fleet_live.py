"""Show the events of a rollout: a live display on a terminal, otherwise a line per event, or JSON."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from bpudeploy.cli.fleet_lines import Line, board_line, frame, megabytes, printable, rank, rollout_line, wave_lines
from bpudeploy.fleet.events import (
    BoardEnded,
    BoardLate,
    BoardStarted,
    CommandGiven,
    ControllerStarted,
    Event,
    RolloutFinished,
    RolloutPlanned,
    WaveEnded,
)
from bpudeploy.fleet.history import utc
from bpudeploy.fleet.view import RolloutView, apply, replay
from bpudeploy.results.drawing import format_duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_DRAWS_PER_SECOND = 8
_STYLES = {"good": "green", "bad": "bold red", "odd": "yellow", "": ""}


class FleetLive:
    """Shows events: a live display on a terminal; otherwise a line per event, or its JSON with ``--json``.

    ``draw`` is thread-safe. The display refreshes at most 8 times a second and is cleared at the end, when ``fleet``
    prints the status; after an error or Ctrl-C the boards that need attention stay visible.
    """

    def __init__(self, as_json: bool, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._as_json = as_json
        self._view: RolloutView | None = None
        self._began: dict[str, float] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> FleetLive:
        if not self._as_json and self._out.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._out, highlight=False)
            self._live = Live(
                console=console,
                get_renderable=lambda: self._frame(console.height),
                refresh_per_second=_DRAWS_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is None:
            return
        self._live.stop()
        view = self._view
        if view is not None and kind is not None:
            boards = sorted((b for b in view.boards.values() if rank(b)[0] <= 4), key=rank)
            now = time.time()
            for line in [*(board_line(b, view, now) for b in boards), *wave_lines(view), rollout_line(view, now)]:
                self._live.console.print(_styled([line]), overflow="ignore", crop=False)

    def draw(self, event: Event) -> None:
        """Show one event; the first is ``RolloutPlanned``."""
        with self._lock:
            if self._as_json:
                print(event.model_dump_json(), file=self._out, flush=True)
                return
            self._view = replay([event]) if self._view is None else apply(self._view, event)
            if self._live is None:
                self._print(event)

    def _frame(self, height: int) -> Text:
        with self._lock:
            view = self._view
        return _styled([] if view is None else frame(view, time.time(), max(4, height - 1)))

    def _print(self, event: Event) -> None:
        if isinstance(event, BoardStarted):
            self._began[event.board] = event.at
        text = _ended(event, self._began.get(event.board)) if isinstance(event, BoardEnded) else _event_text(event)
        if text:
            print(f"{utc(event.at):%H:%M:%S}Z  {text}", file=self._out, flush=True)


def _styled(lines: Sequence[Line]) -> Text:
    from rich.text import Text

    drawn = Text(no_wrap=True, overflow="ellipsis")
    for i, (text, tone) in enumerate(lines):
        drawn.append(f"\n{text}" if i else text, _STYLES[tone])
    return drawn


def _ended(event: BoardEnded, began: float | None) -> str:
    sent = f", {megabytes(event.bytes_sent)}" if event.bytes_sent else ""
    duration = f", {format_duration(max(0.0, event.at - began))}" if began is not None else ""
    why = f": {printable(event.detail)}" if event.detail else ""
    return f"{printable(event.board)}  {event.work} {event.ending}{duration}{sent}{why}"


def _event_text(event: Event) -> str:
    """Return an event as a log line; empty for ``StepReached``."""
    match event:
        case RolloutPlanned():
            updated = sum(plan.skipped is None for plan in event.places)
            return f"rollout {printable(event.rollout)}: boards: {updated}, waves: {len(event.soaks)}"
        case ControllerStarted():
            return f"controlled by {printable(event.by)}"
        case BoardStarted():
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"{printable(event.board)}  {event.work} started{again}"
        case BoardLate():
            return f"{printable(event.board)}  late: it counts as failed"
        case CommandGiven():
            wave = "" if event.wave is None else f" of wave {event.wave + 1}"
            return f"{event.order}{wave} by {printable(event.by)}"
        case WaveEnded():
            return f"wave {event.wave + 1} ended"
        case RolloutFinished():
            return f"{event.result}: {printable(event.why)}"
        case _:
            return ""
