"""Run a vendor tool: its output line by line, a time limit, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bpudeploy.backends.horizon.log import indented_tail
from bpudeploy.backends.horizon.tool import Command
from bpudeploy.errors import StageError

_TICK_S = 1.0
_GRACE_S = 5.0
_END_S = 30.0
_LONGEST_LINE = 1 << 16
_LAST_LINES = 12


@dataclass(frozen=True)
class ProcessResult:
    """The exit status of a process (negative: the signal), or that it exceeded its time limit."""

    status: int
    seconds: float
    timed_out: bool


OnLine = Callable[[str], None]
"""Called with each line of output, stdout and stderr merged."""
OnTick = Callable[[float], None]
"""Called about once a second with the seconds since the last output."""


def run(command: Command, folder: Path, limit_s: float, on_line: OnLine, on_tick: OnTick) -> ProcessResult:
    """Start ``command`` in ``folder`` and wait for it.

    However this call ends (its own end, the limit, Ctrl-C, SIGTERM, an error in a callback), the processes that it
    started and its container are gone afterwards, unless this process is killed by SIGKILL.
    """
    started = time.monotonic()
    with _handling(signal.SIGTERM, _exit):
        process = subprocess.Popen(
            command.argv,
            cwd=folder,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        finished = False
        try:
            finished = _forward(process, started + limit_s, on_line, on_tick)
        finally:
            status = _end(process, () if finished else command.kill)
        return ProcessResult(status, time.monotonic() - started, not finished)


def run_checked(
    command: Command,
    folder: Path,
    limit_s: float,
    what: str,
    hint: str,
    on_line: OnLine = lambda line: None,
    shown: Callable[[str], object] = str.strip,
) -> None:
    """Run ``command`` as ``run`` does, and require that it succeeds.

    Args:
        what: the command's name in the error.
        shown: whether a line of output may be among the last ones in the error.

    Raises:
        StageError: it fails or takes longer than ``limit_s``; the message has its last lines.
    """
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    def keep(line: str) -> None:
        if shown(line):
            last_lines.append(line.rstrip())
        on_line(line)

    result = run(command, folder, limit_s, keep, lambda silent_s: None)
    if result.timed_out or result.status != 0:
        how = f"took more than {limit_s / 60:.0f} minutes" if result.timed_out else f"failed (status {result.status})"
        raise StageError(f"{what} {how}:\n{indented_tail(last_lines)}", hint=hint)


def _forward(process: subprocess.Popen[bytes], deadline: float, on_line: OnLine, on_tick: OnTick) -> bool:
    """Pass on the output until the process ends; return False if the deadline is reached first."""
    assert process.stdout is not None
    pipe, lines = process.stdout.fileno(), _Lines()
    last = ticked = time.monotonic()
    while (now := time.monotonic()) < deadline:
        ready, _, _ = select.select([pipe], [], [], min(_TICK_S, deadline - now))
        piece = os.read(pipe, _LONGEST_LINE) if ready else b""
        if piece:
            last = time.monotonic()
            for line in lines.split(piece):
                on_line(line)
        elif ready or _is_over(process.pid):  # a child that outlives it may hold the pipe open
            for line in lines.rest():
                on_line(line)
            return _wait_until(process.pid, deadline)
        if (now := time.monotonic()) - ticked >= _TICK_S:
            ticked = now
            on_tick(now - last)
    return False


class _Lines:
    """Splits bytes into lines, also at a progress bar's carriage return and after 64 KiB without a line end."""

    def __init__(self) -> None:
        self._open = b""

    def split(self, piece: bytes) -> Iterator[str]:
        *whole, self._open = (self._open + piece).replace(b"\r", b"\n").split(b"\n")
        if len(self._open) > _LONGEST_LINE:
            whole.append(self._open)
            self._open = b""
        yield from (line.decode("utf-8", "replace") for line in whole)

    def rest(self) -> Iterator[str]:
        if self._open:
            yield self._open.decode("utf-8", "replace")


def _is_over(pid: int) -> bool:
    """Return whether our child has ended, without reaping it: until then its pid is not reused."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_until(pid: int, deadline: float) -> bool:
    while not _is_over(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _end(process: subprocess.Popen[bytes], kill: tuple[tuple[str, ...], ...]) -> int:
    """End every process of its group, then its container, and return its exit status.

    SIGTERM is skipped for a container, whose first process ignores it. A second Ctrl-C does not interrupt the clean-up.
    """
    with _handling(signal.SIGINT, signal.SIG_IGN), _handling(signal.SIGTERM, signal.SIG_IGN):
        if not kill and not _is_over(process.pid):
            _signal(process.pid, signal.SIGTERM)
            _wait_until(process.pid, time.monotonic() + _GRACE_S)
        _signal(process.pid, signal.SIGKILL)
        for argv in kill:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_END_S, check=False)
        if process.stdout is not None:
            process.stdout.close()
        return process.wait()


Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _handling(number: signal.Signals, handler: Handler) -> Iterator[None]:
    """Replace a signal handler for a while; does nothing outside the main thread, which cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
