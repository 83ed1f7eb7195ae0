"""Running a vendor tool: its words as they come, a time limit, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bpudeploy.backends.horizon.tool import Command

_TICK_S = 1.0
_GRACE_S = 5.0
_END_S = 30.0
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class ProcessResult:
    """How it ended: the exit status (negative: the signal), or that it was stopped for taking too long."""

    status: int
    seconds: float
    timed_out: bool


def run(
    command: Command, folder: Path, limit_s: float, heard: Callable[[str], None], tick: Callable[[float], None]
) -> ProcessResult:
    """Start ``command`` in ``folder`` and wait for it.

    ``heard`` is given each line of its output, both streams as one; ``tick`` the seconds since it said anything,
    about once a second. Whatever ends this call (its own end, the limit, Ctrl-C, SIGTERM, an error in a listener),
    the processes that it started and its container are gone afterwards; only a SIGKILL of ours leaves them.
    """
    with _handling(signal.SIGTERM, _leave):
        return _run(command, folder, limit_s, heard, tick)


def _run(
    command: Command, folder: Path, limit_s: float, heard: Callable[[str], None], tick: Callable[[float], None]
) -> ProcessResult:
    started = time.monotonic()
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
        finished = _listen(process, started + limit_s, heard, tick)
    finally:
        status = _end(process, () if finished else command.kill)
    return ProcessResult(status, time.monotonic() - started, not finished)


def _listen(
    process: subprocess.Popen[bytes], deadline: float, heard: Callable[[str], None], tick: Callable[[float], None]
) -> bool:
    """Pass on its output until it ends; return False when the deadline comes first."""
    assert process.stdout is not None
    pipe, lines = process.stdout.fileno(), _Lines()
    last = ticked = time.monotonic()
    while (now := time.monotonic()) < deadline:
        ready, _, _ = select.select([pipe], [], [], min(_TICK_S, deadline - now))
        piece = os.read(pipe, _LONGEST_LINE) if ready else b""
        if piece:
            last = time.monotonic()
            for line in lines.split(piece):
                heard(line)
        elif ready or _is_over(process.pid):  # a child that outlives it may hold the pipe open
            for line in lines.rest():
                heard(line)
            return _wait_until(process.pid, deadline)
        if (now := time.monotonic()) - ticked >= _TICK_S:
            ticked = now
            tick(now - last)
    return False


class _Lines:
    """Bytes to lines. A progress bar's carriage return ends one, and so do 64 KiB without any end."""

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
    """Say whether our child has ended, and leave it to be waited for: until then nobody else has its number."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_until(pid: int, deadline: float) -> bool:
    while not _is_over(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _end(process: subprocess.Popen[bytes], kill: tuple[tuple[str, ...], ...]) -> int:
    """End every process of its group, then its container, and return its exit status.

    A container's first process takes no SIGTERM, so there its client is not asked first.
    """
    with _deaf():
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


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a second Ctrl-C not stop the clearing up, which takes seconds."""
    with _handling(signal.SIGINT, signal.SIG_IGN), _handling(signal.SIGTERM, signal.SIG_IGN):
        yield


@contextmanager
def _handling(number: signal.Signals, handler: Handler) -> Iterator[None]:
    """Handle a signal otherwise for a while; only a main thread may."""
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
