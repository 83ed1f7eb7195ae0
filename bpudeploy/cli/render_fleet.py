"""How `fleet` is printed: who gets what, where a rollout stands, and what happens in it as it happens."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

from bpudeploy.cli.fleet_lines import (
    Line,
    board_line,
    frame,
    megabytes,
    printable,
    rank,
    release_in_words,
    wave_lines,
    whole_lines,
)

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from bpudeploy.errors import BpudeployError
    from bpudeploy.fleet.events import Ended, Event
    from bpudeploy.fleet.view import RolloutView
    from bpudeploy.spec.fleet import Fleet

_DRAWS_A_SECOND = 8
_STYLES = {"good": "green", "bad": "bold red", "odd": "yellow", "": ""}


@dataclass(frozen=True)
class PlanRow:
    """What a board would get."""

    board: str
    target: str
    wave: int | None
    """From 1; None: it is in no wave, and gets nothing."""
    release: str | None
    serves: str | None
    """What it serves now; empty: nothing; None: not known."""
    bytes_to_send: int | None
    """None: not known."""
    note: str
    """Why it gets nothing; or what else there is to know."""


def show_fleet_plan(rows: Sequence[PlanRow], as_json: bool) -> None:
    """Print who gets what, bytes to send, and why some are skipped."""
    if as_json:
        print(json.dumps({"boards": [asdict(row) for row in rows], **_plan_sums(rows)}))
        return
    if not rows:
        print("no board of the fleet is chosen")
        return
    name = max(5, *(len(row.board) for row in rows))
    kind = max(6, *(len(row.target) for row in rows))
    print(f"  {'wave':<5} {'board':<{name}}  {'target':<{kind}}  {'serves':<12}    {'gets':<12} {'to send':>11}  note")
    for row in sorted(rows, key=lambda r: (r.wave is None, r.wave)):
        wave = "-" if row.wave is None else row.wave
        gets = "nothing" if row.wave is None else release_in_words(row.release)
        sent = "" if row.wave is None else megabytes(row.bytes_to_send)
        print(
            f"  {wave:<5} {printable(row.board):<{name}}  {printable(row.target):<{kind}}  "
            f"{release_in_words(row.serves):<12} -> {gets:<12} {sent:>11}  {printable(row.note)}".rstrip()
        )
    sums = _plan_sums(rows)
    more = f", not known of {sums['bytes_not_known']}" if sums["bytes_not_known"] else ""
    print(
        f"boards: {sums['updated']} in waves: {sums['waves']}, {megabytes(sums['bytes_to_send'])} to send{more}; "
        f"serve their release already: {sums['current']}; get nothing: {sums['skipped']}"
    )


def _plan_sums(rows: Sequence[PlanRow]) -> dict[str, int]:
    given = [row for row in rows if row.wave is not None]
    return {
        "updated": len(given),
        "waves": len({row.wave for row in given}),
        "current": sum(row.serves is not None and row.serves == row.release for row in given),
        "skipped": len(rows) - len(given),
        "bytes_to_send": sum(row.bytes_to_send or 0 for row in given),
        "bytes_not_known": sum(row.bytes_to_send is None for row in given),
    }


def show_inventory(fleet: Fleet, as_json: bool) -> None:
    """Print the boards of a fleet file."""
    if as_json:
        print(fleet.model_dump_json())
        return
    name = max((len(board) for board in fleet.boards), default=0)
    for board, one in fleet.boards.items():
        labels = ",".join([*one.groups, *(f"{key}={value}" for key, value in one.labels.items())])
        jump = f" by {one.jump}" if one.jump else ""
        print(f"  {board:<{name}}  {one.target:<10} {printable(one.address + jump)}  {labels}".rstrip())
    print(f"boards: {len(fleet.boards)}, waves that are asked for: {len(fleet.rollout.waves)}")


def show_rollouts(found: Sequence[tuple[str, Sequence[Event]]], as_json: bool) -> None:
    """Print a line for each rollout, by the name of its folder."""
    from bpudeploy.fleet.summary import to_json
    from bpudeploy.fleet.view import view

    if as_json:
        print(json.dumps([to_json(events) for _, events in found]))
        return
    if not found:
        print("no rollout was begun in this folder yet: `bpudeploy fleet plan` says what one would do")
    for name, events in found:
        known = view(events)
        done = sum(board.state == "done" for board in known.boards.values())
        stands = known.result or known.phase(time.time())
        print(
            f"  {printable(name)}  {stands:<20} {done:>4} of {len(known.boards)} done  {printable(known.why)}".rstrip()
        )


def show_status(events: Sequence[Event], as_json: bool) -> None:
    """Print where a rollout stands: every board, then every wave, then the whole."""
    from bpudeploy.fleet.summary import to_json
    from bpudeploy.fleet.view import view

    if as_json:
        print(json.dumps(to_json(events)))
        return
    known, now = view(events), time.time()
    lines = [board_line(board, known, now) for board in known.boards.values()]
    for text, _ in [*lines, *wave_lines(known), *whole_lines(known, now)]:
        print(text)


def show_webhook_failed(error: BpudeployError) -> None:
    """Warn that nobody was told; the rollout's exit code stays what it is."""
    print(f"warning: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  fix: {error.hint}", file=sys.stderr)


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
                refresh_per_second=_DRAWS_A_SECOND,
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
        from bpudeploy.fleet.view import after, view

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
        from bpudeploy.fleet.chronicle import utc
        from bpudeploy.fleet.events import Ended, Started

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
    from bpudeploy.fleet.chronicle import lasting

    sent = f", {megabytes(event.bytes_sent)}" if event.bytes_sent else ""
    took = f", {lasting(max(0.0, event.at - began))}" if began is not None else ""
    why = f": {printable(event.detail)}" if event.detail else ""
    return f"{printable(event.board)}  {event.work} {event.ending}{took}{sent}{why}"


def _in_words(event: Event) -> str:
    """Return an event as a line of a log; a step that was reached is not worth one."""
    from bpudeploy.fleet.events import Controlled, Finished, Late, Ordered, Planned, Started, WaveEnded

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
