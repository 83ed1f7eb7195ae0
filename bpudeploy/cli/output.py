"""The only printer: results as text or as JSON, chosen once; events as lines and a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from bpudeploy.digest import short
from bpudeploy.errors import BpudeployError, SpecError
from bpudeploy.events import Event, Note, Progress, StepFinished, StepStarted, StepWaiting

if TYPE_CHECKING:
    from pydantic import BaseModel
    from tqdm import tqdm

WIDTH = 118


class Output:
    """Where a command's result goes: text for people, or with ``--json`` one document a line for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: BaseModel | object, text: Iterable[str]) -> None:
        """Print a result: ``document`` as JSON, or the lines of ``text``.

        Args:
            document: a pydantic model, or what ``json.dumps`` takes.
            text: a generator costs nothing if it is not printed.
        """
        if self.as_json:
            print(_json(document))
        else:
            for line in text:
                print(line)

    def note(self, text: str) -> None:
        """Print one line; with ``--json`` as ``{"note": text}``."""
        self.show({"note": text}, [text])

    def text(self, text: str) -> None:
        """Print text as it is."""
        sys.stdout.write(text)

    def aside(self, text: str) -> None:
        """Print a line that is not the result: with ``--json`` on standard error."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def warn(self, text: str, fix: str | None = None) -> None:
        """Print a warning on standard error."""
        print(f"warning: {text}" + (f"\n  fix: {fix}" if fix else ""), file=sys.stderr)

    def error(self, error: BpudeployError) -> None:
        """Print an error, with every other one that was found with it, on standard error."""
        errors = [error, *(error.others if isinstance(error, SpecError) else ())]
        if self.as_json:
            print(json.dumps({"errors": [_error(e) for e in errors]}), file=sys.stderr)
            return
        for one in errors:
            place = f"{one.where}: " if one.where else ""
            print(f"error: {place}{one.message}", file=sys.stderr)
            field = getattr(one, "field", None)
            if field and field not in one.message:
                print(f"  field: {field}", file=sys.stderr)
            if one.hint:
                print(f"  fix: {one.hint}", file=sys.stderr)

    def live(self) -> Live:
        """Return what draws events: on standard output, or with ``--json`` on standard error."""
        return Live(sys.stderr if self.as_json else sys.stdout)


def _json(document: BaseModel | object) -> str:
    to_json = getattr(document, "model_dump_json", None)
    return str(to_json()) if to_json is not None else json.dumps(document)


def _error(error: BpudeployError) -> dict[str, Any]:
    return {
        "message": error.message,
        "where": str(error.where) if error.where else None,
        "field": getattr(error, "field", None),
        "hint": error.hint,
    }


class Live:
    """Draws events as they come: a line for each, and on a terminal a progress bar for the running step."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._bar: tqdm[Any] | None = None
        self._step: tuple[str, int] | None = None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def draw_for(self, recipe: str, event: Event) -> None:
        """Draw an event of one recipe among several."""
        self.draw(replace(event, step=f"{recipe} {event.step}"))

    def draw(self, event: Event) -> None:
        """Draw one event."""
        match event:
            case StepStarted(step):
                self._open(step, 0, 0, "")
            case StepWaiting(step):
                self._line(step, "waiting: another process runs this step")
            case StepFinished(step, cache, digests, seconds, peak_mb):
                took = "stored" if cache == "hit" else f"{seconds:.1f} s"
                memory = f"{peak_mb:.0f} MB" if cache == "miss" and peak_mb else ""
                self._line(step, f"{took:>8} {memory:>8}  {' '.join(short(d) for d in digests)}")
            case Note(step, text):
                self._line(step, text)
            case Progress(step, done, total, unit):
                if self._step != (step, total):
                    self._open(step, done, total, unit)
                if self._bar is not None:
                    self._bar.update(done - self._bar.n)

    def _line(self, step: str, text: str) -> None:
        self._close()
        print(f"  {step:<22} {text}", file=self._file, flush=True)

    def _open(self, step: str, done: int, total: int, unit: str) -> None:
        """Begin a progress bar, where the file is a terminal."""
        self._close()
        if not self._file.isatty():
            return
        from tqdm import tqdm

        self._step = (step, total)
        shape = {} if total else {"bar_format": "  {desc} {elapsed}"}
        scale = {"unit": "B", "unit_scale": True} if unit == "bytes" else {"unit": f" {unit}"}
        label = f"  {step:<22}" if total else f"{step} ..."
        shown: dict[str, Any] = {"leave": False, "file": self._file, "dynamic_ncols": True} | scale | shape
        self._bar = tqdm(desc=label, total=total or None, initial=done, **shown)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._step = None, None


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None = None) -> list[str]:
    """Return a table as lines, indented by two spaces.

    Args:
        columns: headings; one that begins with ``>`` is of a right-aligned column.
        width: wrap the last column at this many characters; None never wraps.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, name in enumerate(columns):
        last = i == len(columns) - 1
        justify: Any = "right" if name.startswith(">") else "left"
        drawn.add_column(name.removeprefix(">"), justify=justify, no_wrap=not (last and width), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(width=(width or 10_000) - 2, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(drawn)
    return [f"  {line}".rstrip() for line in captured.get().splitlines()]


def wrap(head: str, text: str) -> str:
    """Return ``text`` wrapped beside ``head``."""
    import textwrap

    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
