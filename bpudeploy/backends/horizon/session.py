"""One compilation: runs a tool within a time limit and turns its output into events, findings or an error."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bpudeploy.backends.base import FINDINGS
from bpudeploy.backends.horizon.failures import explain
from bpudeploy.backends.horizon.findings import CompilerFindings, LogSummary
from bpudeploy.backends.horizon.inside import PYTHON, copy_script
from bpudeploy.backends.horizon.log import LogReader, indented_tail, percent, phase, read_log
from bpudeploy.backends.horizon.process import ProcessResult, run
from bpudeploy.backends.horizon.tool import Command, Tool, find_tool
from bpudeploy.conformance.profile import Layer, Subgraph
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.provenance import Provenance
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import Fingerprint, StepContext

STEP = "compile"
MINUTE_S = 60.0
SILENCE_S = 300.0
"""After this long without output, an event reports that the tool is still running."""


class VendorBackend:
    """The part of the protocol that is alike for both tools; ``name`` is also the tool's."""

    name: str
    driver = None
    provenance = Provenance.MEASURED
    deterministic = False
    findings = True

    def device(self, march: str) -> str:
        return f"BPU ({march})"

    def fingerprint(self, options: VendorOptions) -> Fingerprint:
        return find_tool(self.name, options).fingerprint


class Session:
    """Runs a tool's commands one after another within one time limit.

    ``backend`` is the tool's name and that of its section in the recipe.
    """

    def __init__(self, work: StepContext, backend: str, tool: Tool, options: VendorOptions) -> None:
        self.work, self.backend, self.tool, self.options = work, backend, tool, options
        self.folder = work.dir / "vendor"
        self.folder.mkdir()
        self._started = self._last_note = time.monotonic()
        self._command = self._phase = ""  # the running command, and the phase that it announced last
        self._percent: int | None = None  # of the phase, where the tool says so

    def announce(self) -> None:
        """Report the tool, its location and the time limit."""
        version = ", ".join(f"{name} {version[:19]}" for name, version in self.tool.fingerprint.items())
        cores, minutes = os.cpu_count(), self.options.minutes
        self.work.emit(Note(STEP, f"{version} {self.tool.location}, {cores} cores, limit {minutes} min"))

    def call(
        self,
        *arguments: str,
        log: str,
        closing: tuple[str, ...] = (),
        product: Path | None = None,
        script: str | None = None,
    ) -> LogSummary:
        """Run one command of the tool and return its parsed log.

        Args:
            script: a program of ``inside`` that runs the command in the tool's own Python.
            log: the log's file name in the folder.
            closing: lines required for success, whatever the exit status.
            product: the file that it must write.

        Raises:
            StageError: it failed; the message has its output, the hint the fix and the path of the kept log.
        """
        self._command = self.backend if arguments[0].startswith("-") else arguments[0]
        self._phase, self._last_note = "", self._started
        console = LogReader()
        left = self._started + self.options.minutes * MINUTE_S - time.monotonic()
        with (self.folder / "console.log").open("a", buffering=1, encoding="utf-8") as copy:

            def on_line(raw: str) -> None:
                copy.write(raw + "\n")
                line = console.feed(raw)
                self._start_phase(phase(line))
                self._advance(percent(line))

            try:
                result = run(self._command_line(script, arguments), self.folder, left, on_line, self._tick)
            except OSError as error:
                raise StageError(f"{self.backend} cannot be started: {error}", hint="check its file on PATH") from error
        file = self.folder / log
        reader = read_log(file) if file.is_file() else console
        report = reader.summary()
        failed = _failure(result, report, closing, product)
        if failed is not None:
            raise self._error(failed, result, reader.errors or console.errors, console.tail)
        return report

    def _command_line(self, script: str | None, arguments: tuple[str, ...]) -> Command:
        if script is None:
            return self.tool.command(self.backend, arguments, self.folder)
        copy_script(script, self.folder)
        return self.tool.command(PYTHON, (script, *arguments), self.folder)

    def _start_phase(self, phase: str | None) -> None:
        if phase is not None and phase != self._phase:
            self._phase, self._percent, self._last_note = phase, None, time.monotonic()
            since = f" (after {self._minutes():.0f} min)" if self._minutes() >= 1 else ""
            self.work.emit(Note(STEP, f"{self._command}: {phase}{since}"))

    def _advance(self, percent: int | None) -> None:
        """Report the tool's own progress, and a line in the log for each tenth that took a while."""
        if percent is None:
            return
        passed = percent // 10 > (self._percent or 0) // 10
        self._percent = percent
        self.work.emit(Progress(STEP, percent, 100, "%"))
        if passed and time.monotonic() - self._last_note > MINUTE_S:
            self._last_note = time.monotonic()
            text = f"{self._command}: {self._phase}: {percent} % after {self._minutes():.0f} min"
            self.work.emit(Note(STEP, text))

    def _tick(self, silent_s: float) -> None:
        if self._percent is None:
            self.work.emit(Progress(STEP, int(self._minutes()), self.options.minutes, "minutes at most"))
        if silent_s > SILENCE_S and time.monotonic() - self._last_note > SILENCE_S:
            self._last_note = time.monotonic()
            text = f"{self._command}: {self._phase or 'start'}: still running, no output for {silent_s / 60:.0f} min"
            self.work.emit(Note(STEP, text))

    def _minutes(self) -> float:
        return (time.monotonic() - self._started) / MINUTE_S

    def finish(
        self,
        binary: Path,
        report: LogSummary,
        march: str,
        config: str,
        suffix: str,
        merged: tuple[str, ...] = (),
        differ: tuple[str, ...] = (),
        subgraphs: tuple[Subgraph, ...] = (),
        layers: tuple[Layer, ...] = (),
    ) -> Path:
        """Move the binary out of the folder, and write and summarise the findings."""
        found = CompilerFindings(
            backend=self.backend,
            march=march,
            tool=dict(self.tool.fingerprint),
            config=config,
            told=report,
            merged=merged,
            differ=differ,
            subgraphs=subgraphs,
            layers=layers,
        )
        (self.work.dir / FINDINGS).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        out = binary.rename(self.work.dir / f"model{suffix}")
        shutil.rmtree(self.folder)
        for line in found.summary():
            self.work.emit(Note(STEP, line))
        return out

    def _error(self, failed: str, result: ProcessResult, errors: Sequence[str], tail: Sequence[str]) -> StageError:
        kept = self._keep()
        what = self.backend if self._command == self.backend else f"{self.backend} {self._command}"
        during = f" in phase {self._phase!r}" if self._phase else ""
        if result.timed_out:
            fix = f"raise `compile.{self.backend}.minutes`, or lower `optimize_level`"
        elif _signal_of(result.status) is signal.SIGKILL:
            fix = f"if it ran out of memory: raise `compile.{self.backend}.memory_gib`, or lower `jobs`"
        elif _signal_of(result.status) is not None:
            fix = "the tool itself crashed: try another `optimize_level`, or report it to the vendor with the log"
        elif result.status != 0 and (known := explain(errors, tail, self.backend)) is not None:
            return StageError(f"{what}: {known[0]}", hint=f"{known[1] or 'read the log'}; the log is in {kept}")
        else:
            during, fix = "", "read the log"
        return StageError(f"{what} {failed}{during}; last output:\n{indented_tail(tail)}", hint=f"{fix}: {kept}")

    def _keep(self) -> Path:
        """Copy the logs out of the work folder, which is deleted with the failed step, and return their folder."""
        kept = Path(tempfile.mkdtemp(prefix=f"bpudeploy-{self.backend}-"))
        for file in (*self.folder.glob("*.log*"), *self.folder.glob("config.yaml")):
            shutil.copyfile(file, kept / file.name)
        return kept


def _failure(result: ProcessResult, report: LogSummary, closing: tuple[str, ...], product: Path | None) -> str | None:
    """Return why a command failed, or None: exit status, closing lines and product are checked."""
    number = _signal_of(result.status)
    missing = [line for line in closing if line not in report.closing]
    if result.timed_out:
        return f"was stopped after {result.seconds / 60:.0f} minutes"
    if number is not None:
        return f"crashed ({number.name})"
    if result.status != 0:
        return f"failed with exit status {result.status}"
    if missing:
        return f"ended without printing {missing[0]!r}"
    if product is not None and not product.is_file():
        return f"succeeded but wrote no {product.name}"
    return None


def _signal_of(status: int) -> signal.Signals | None:
    """Return the signal that ended a process: -n on this machine, 128 + n in a container (255 is -1, no signal)."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number) if number in {int(s) for s in signal.Signals} else None
