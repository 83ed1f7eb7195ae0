"""Draws the events of a rollout as they come: a picture on a terminal, else a line for each, or JSON."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from bpudeploy.cli.fleet_lines import Line, board_line, frame, megabytes, printable, rank, wave_lines, whole_lines
from bpudeploy.fleet.chronicle import lasting, utc
from bpudeploy.fleet.events import Controlled, Ended, Event, Finished, Late, Ordered, Planned, Started, WaveEnded
from bpudeploy.fleet.view import RolloutView, after, view

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_DRAWS_PER_SECOND = 8
_STYLES = {"good": "green", "bad": "bold red", "odd": "yellow", "": ""}


class FleetLive:
    """Draws events as they come: a picture on a terminal; elsewhere a line for each, or its JSON with ``--json``.

    ``draw`` may be called from any thread. What is on the terminal is drawn anew at most 8 times a second, however
    many events there are, and is wiped at the end, for ``show_status`` to say what came of it; after an error or Ctrl-C
    it says that itself.
    """

    def __init__(self, as_json: bool, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._as_json = as_json
        self._known: RolloutView | None = None
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
                get_renderable=lambda: self._picture(console.height),
                refresh_per_second=_DRAWS_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is None:
            return
        self._live.stop()
        known = self._known
        if known is not None and kind is not None:  # those that are not well, and the sums
            boards = sorted((b for b in known.boards.values() if 0 <= rank(b)[0] <= 4), key=rank)
            now = time.time()
            for line in [*(board_line(b, known, now) for b in boards), *wave_lines(known), *whole_lines(known, now)]:
                self._live.console.print(_styled([line]), overflow="ignore", crop=False)

    def draw(self, event: Event) -> None:
        """Take one event, the first one of a rollout first."""
        with self._lock:
            if self._as_json:
                print(event.model_dump_json(), file=self._out, flush=True)
                return
            self._known = view([event]) if self._known is None else after(self._known, event)
            if self._live is None:
                self._say(event)

    def _picture(self, height: int) -> Text:
        with self._lock:
            known = self._known
        return _styled([] if known is None else frame(known, time.time(), max(4, height - 1)))

    def _say(self, event: Event) -> None:
        if isinstance(event, Started):
            self._began[event.board] = event.at
        words = _ended(event, self._began.get(event.board)) if isinstance(event, Ended) else _in_words(event)
        if words:
            print(f"{utc(event.at):%H:%M:%S}Z  {words}", file=self._out, flush=True)


def _styled(lines: Sequence[Line]) -> Text:
    from rich.text import Text

    drawn = Text(no_wrap=True, overflow="ellipsis")
    for i, (text, tone) in enumerate(lines):
        drawn.append(f"\n{text}" if i else text, _STYLES[tone])
    return drawn


def _ended(event: Ended, began: float | None) -> str:
    sent = f", {megabytes(event.bytes_sent)}" if event.bytes_sent else ""
    took = f", {lasting(max(0.0, event.at - began))}" if began is not None else ""
    why = f": {printable(event.detail)}" if event.detail else ""
    return f"{printable(event.board)}  {event.work} {event.ending}{took}{sent}{why}"


def _in_words(event: Event) -> str:
    """Return an event as a line of a log; a step that was reached is not worth one."""
    match event:
        case Planned():
            updated = sum(place.skipped is None for place in event.places)
            return f"rollout {printable(event.rollout)}: boards: {updated}, waves: {len(event.soaks)}"
        case Controlled():
            return f"controlled by {printable(event.by)}"
        case Started():
            again = f", try {event.attempt}" if event.attempt > 1 else ""
            return f"{printable(event.board)}  {event.work} begins{again}"
        case Late():
            return f"{printable(event.board)}  takes longer than it may: it counts as failed"
        case Ordered():
            wave = "" if event.wave is None else f" of wave {event.wave + 1}"
            return f"{event.order}{wave} by {printable(event.by)}"
        case WaveEnded():
            return f"wave {event.wave + 1} ends"
        case Finished():
            return f"{event.result}: {printable(event.why)}"
        case _:
            return ""
