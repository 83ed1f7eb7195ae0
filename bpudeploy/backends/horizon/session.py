"""One compilation: a folder, a tool, a clock; what the tool says becomes events, findings or an error."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bpudeploy.backends.base import FINDINGS
from bpudeploy.backends.horizon.failures import explain
from bpudeploy.backends.horizon.findings import CompilerFindings, LogSummary
from bpudeploy.backends.horizon.log import LogReader, last_lines, phase, read_log
from bpudeploy.backends.horizon.process import ProcessResult, run
from bpudeploy.backends.horizon.tool import Tool
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import Work

STEP = "compile"
A_MINUTE_S = 60.0
SILENCE_S = 300.0
"""After how long without a word a line says that the tool is still at work."""


@dataclass
class Session:
    """Runs a tool's commands, one after another, within one limit of time.

    ``backend`` is the tool's name, and that of its section of the recipe.
    """

    work: Work
    backend: str
    tool: Tool
    options: VendorOptions
    folder: Path = field(init=False)
    _started: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder = self.work.dir / "vendor"
        self.folder.mkdir()

    def call(self, *arguments: str, log: str, closing: tuple[str, ...] = (), product: Path | None = None) -> LogSummary:
        """Run one command of the tool and return what its log says.

        Args:
            log: the log's name in the folder, as the tool writes it.
            closing: the lines without which it did not succeed, whatever its exit status.
            product: what it must have written.

        Raises:
            StageError: it failed; the message has its words, the hint the repair and where the log was kept.
        """
        called = self.backend if arguments[0].startswith("-") else arguments[0]
        console, listener = LogReader(), _Listener(self.work, called, self.options.minutes, self._started)
        left = self._started + self.options.minutes * A_MINUTE_S - time.monotonic()
        with (self.folder / "console.log").open("a", buffering=1, encoding="utf-8") as copy:

            def heard(raw: str) -> None:
                copy.write(raw + "\n")
                listener.heard(phase(console.feed(raw)))

            try:
                ended = run(self.tool.command(arguments, self.folder), self.folder, left, heard, listener.tick)
            except OSError as error:
                raise StageError(f"{self.backend} cannot be started: {error}", hint="check its file on PATH") from error
        file = self.folder / log
        reader = read_log(file) if file.is_file() else console
        told = reader.summary()
        failed = _failure(ended, told, closing, product)
        if failed is not None:
            raise self._error(called, failed, ended, reader.errors or console.errors, console, listener.doing)
        return told

    def finish(
        self, binary: Path, told: LogSummary, march: str, config: str, suffix: str, merged: tuple[str, ...] = ()
    ) -> Path:
        """Move the binary out of the folder, write the findings, and say what matters of them."""
        found = CompilerFindings(
            backend=self.backend,
            march=march,
            tool=dict(self.tool.fingerprint),
            config=config,
            told=told,
            merged=merged,
        )
        (self.work.dir / FINDINGS).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        out = binary.rename(self.work.dir / f"model{suffix}")
        shutil.rmtree(self.folder)
        for line in found.summary():
            self.work.emit(Note(STEP, line))
        return out

    def _error(
        self, called: str, failed: str, ended: ProcessResult, errors: Sequence[str], console: LogReader, doing: str
    ) -> StageError:
        kept = self._keep()
        what = self.backend if called == self.backend else f"{self.backend} {called}"
        during = f" while it did {doing!r}" if doing else ""
        if ended.timed_out:
            fix = f"raise `compile.{self.backend}.minutes`, or lower `optimize_level`"
        elif _killed_for_memory(ended.status):
            fix = f"if it was for memory: raise `compile.{self.backend}.memory_gib`, or lower `jobs`"
        elif _signal_of(ended.status) is not None:
            fix = "a crash of the tool itself: try another `optimize_level`, or report it to the vendor with the log"
        elif ended.status != 0 and (known := explain(errors, console.tail, self.backend)) is not None:
            return StageError(f"{what}: {known[0]}", hint=f"{known[1] or 'read the log'}; the log is in {kept}")
        else:
            during, fix = "", "read the log"
        return StageError(
            f"{what} {failed}{during}; its last words:\n{last_lines(console.tail)}", hint=f"{fix}: {kept}"
        )

    def _keep(self) -> Path:
        """Copy the logs out of the work folder, which goes with the failed step, and return where they are."""
        kept = Path(tempfile.mkdtemp(prefix=f"bpudeploy-{self.backend}-"))
        for file in (*self.folder.glob("*.log*"), *self.folder.glob("config.yaml")):
            shutil.copyfile(file, kept / file.name)
        return kept


class _Listener:
    """Turns a tool's words, and its silence, into events."""

    def __init__(self, work: Work, called: str, limit_minutes: int, started: float) -> None:
        self._work, self._called, self._limit_minutes, self._started = work, called, limit_minutes, started
        self.doing, self._told = "", started

    def heard(self, doing: str | None) -> None:
        if doing is not None and doing != self.doing:
            self.doing, self._told = doing, time.monotonic()
            since = f" (after {self._minutes():.0f} min)" if self._minutes() >= 1 else ""
            self._work.emit(Note(STEP, f"{self._called}: {doing}{since}"))

    def tick(self, silent_s: float) -> None:
        self._work.emit(Progress(STEP, int(self._minutes()), self._limit_minutes, "minutes at most"))
        if silent_s > SILENCE_S and time.monotonic() - self._told > SILENCE_S:
            self._told = time.monotonic()
            doing = self.doing or "start"
            self._work.emit(Note(STEP, f"{self._called}: {doing}: still at work, no word for {silent_s / 60:.0f} min"))

    def _minutes(self) -> float:
        return (time.monotonic() - self._started) / A_MINUTE_S


def _failure(ended: ProcessResult, told: LogSummary, closing: tuple[str, ...], product: Path | None) -> str | None:
    """Say why a command did not succeed, or None: exit status, closing lines and product must all be there."""
    number = _signal_of(ended.status)
    missing = [line for line in closing if line not in told.closing]
    if ended.timed_out:
        return f"was stopped after {ended.seconds / 60:.0f} minutes"
    if number is not None:
        return f"crashed ({number.name})"
    if ended.status != 0:
        return f"failed with exit status {ended.status}"
    if missing:
        return f"ended without {missing[0]!r}"
    if product is not None and not product.is_file():
        return f"ended well and wrote no {product.name}"
    return None


def _signal_of(status: int) -> signal.Signals | None:
    """Return the signal that ended it: negative from this machine, 128 + n from a container (255 is -1, no signal)."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number) if number in {int(s) for s in signal.Signals} else None


def _killed_for_memory(status: int) -> bool:
    return _signal_of(status) is signal.SIGKILL


def say_where(session: Session) -> None:
    """Say where the tool runs."""
    version = ", ".join(f"{name} {version[:19]}" for name, version in session.tool.fingerprint.items())
    where, minutes = session.tool.where, session.options.minutes
    session.work.emit(Note(STEP, f"{version} {where}, {os.cpu_count()} cores, {minutes} min at most"))
