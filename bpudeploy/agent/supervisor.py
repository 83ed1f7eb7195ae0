"""The supervisor: relays lines between host and worker, and kills the worker if either is gone or hangs.

It loads no runtime and blocks only in poll. If it hangs anyway, an alarm kills it, which also kills the worker.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Dict, List, Optional, Tuple

from .governors import restore_leftover
from .protocol import CLOSING, line

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_WORKER_EXITED = "the worker exited unexpectedly"
_START_LIMIT_S = 60.0
_EXIT_LIMIT_S = 5.0
_ALARM_S = 30
_MAX_COMMAND = 32768
"""Bytes per command: less than a pipe buffers, so writing one to an idle worker never blocks."""
_MAX_BUFFERED = 1 << 20
"""Bytes buffered for a slow host before the worker has to wait."""


class _Shutdown(Exception):
    """The reason why the agent exits."""


def supervise(root: str, under: str, idle_s: float) -> int:
    """Serve the host on stdin and stdout; return the exit status, after ending all processes and removing all files."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)
    signal.alarm(_ALARM_S)
    worker, why, status = None, None, 0
    folder = os.path.join(root, f"agent-{os.getpid()}.tmp")
    try:
        os.mkdir(folder)
        worker = _start(root, under, folder)
        _Relay(worker, idle_s).run()
    except (_Shutdown, OSError) as error:
        why = str(error)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(_ALARM_S)
        if worker is not None:
            status = _kill(worker)
        with suppress(OSError):
            restore_leftover(root, under)
        shutil.rmtree(folder, ignore_errors=True)
    if why is not None:
        how = f" ({_describe(status)})" if why == _WORKER_EXITED else ""
        sys.stderr.write(f"agent: {why}{how}\n")
    return 0 if why is None else 1


def _on_signal(number: int, frame: Optional[FrameType]) -> None:
    raise _Shutdown(f"received {signal.Signals(number).name}")


def _start(root: str, under: str, folder: str) -> subprocess.Popen[bytes]:
    own = [sys.executable, os.path.abspath(sys.argv[0]), "--root", root, "--under", under]
    return subprocess.Popen(
        [*own, "--worker", str(os.getpid())],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # to kill it with its children
        env={**os.environ, "TMPDIR": folder},
    )


def _kill(worker: subprocess.Popen[bytes]) -> int:
    """Kill the worker with its children; return its exit status, which it may have had before."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)  # before wait: the PID cannot be reused yet
    return worker.wait()


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name


class _Relay:
    """Relays bytes in both directions, one command at a time, with a deadline for the worker's next output.

    Args:
        idle_s: how long the host may send no command.
    """

    def __init__(self, worker: subprocess.Popen[bytes], idle_s: float) -> None:
        assert worker.stdin is not None and worker.stdout is not None
        self._worker_in, self._worker_out = worker.stdin.fileno(), worker.stdout.fileno()
        self._idle_s = idle_s
        self._from_host = b""  # an incomplete line
        self._commands: List[bytes] = []
        self._from_worker = b""  # an incomplete line
        self._to_host = bytearray()
        self._worker_done = False
        self._wait_for("start", _START_LIMIT_S)

    def _wait_for(self, verb: Optional[str], within: float) -> None:
        """Expect output of the command ``verb``, or with None the next command, in ``within`` seconds."""
        self._verb, self._within, self._deadline = verb, within, time.monotonic() + within

    def run(self) -> None:
        """Return after the worker has completed ``bye``.

        Raises:
            _Shutdown: in all other cases.
        """
        while not (self._worker_done and not self._to_host):
            signal.alarm(_ALARM_S)
            ready = self._ready()
            if ready.get(1, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise _Shutdown("its output was closed")
            if ready.get(1, 0) & select.POLLOUT:
                # A pipe that is ready accepts PIPE_BUF without blocking; for anything else there is the alarm.
                del self._to_host[: os.write(1, self._to_host[: select.PIPE_BUF])]
                if not self._to_host and self._verb not in (None, "end"):
                    self._wait_for(self._verb, self._within)  # the limit is on silence
            if ready.get(self._worker_out):
                self._read_worker()
            if ready.get(0) and self._verb != "end":
                self._read_host()
            self._forward()
            if time.monotonic() > self._deadline:
                waited = f"{self._verb}: no output for" if self._verb else "no command for"
                killed = "; the worker hung and was killed" if self._verb else ""
                raise _Shutdown(f"{waited} {self._within:g} s{killed}")

    def _ready(self) -> Dict[int, int]:
        poll = select.poll()
        poll.register(1, select.POLLOUT if self._to_host else 0)
        if not self._worker_done and len(self._to_host) < _MAX_BUFFERED:
            poll.register(self._worker_out, select.POLLIN)
        if self._verb != "end":
            poll.register(0, select.POLLIN)
        left = self._deadline - time.monotonic()
        return dict(poll.poll(max(0.0, min(left + 0.001, _EXIT_LIMIT_S)) * 1000))

    def _read_host(self) -> None:
        got = os.read(0, 65536)
        if not got:
            raise _Shutdown("its input was closed: the host is gone")
        *lines, self._from_host = (self._from_host + got).split(b"\n")
        self._commands += lines
        if len(self._from_host) > _MAX_BUFFERED:
            raise _Shutdown("its input has no line breaks")

    def _read_worker(self) -> None:
        got = os.read(self._worker_out, 65536)
        if not got:
            if self._verb != "end":
                raise _Shutdown(_WORKER_EXITED)
            self._worker_done = True
            self._wait_for("end", _EXIT_LIMIT_S)
        *lines, self._from_worker = (self._from_worker + got).split(b"\n")
        for text in lines:
            self._to_host += text + b"\n"
            if text.startswith(CLOSING):
                ends = self._verb == "bye" and text.startswith(CLOSING[1])
                self._wait_for(*(("end", _EXIT_LIMIT_S) if ends else (None, self._idle_s)))

    def _forward(self) -> None:
        """Send the worker its next command if the previous one is closed."""
        while self._verb is None and self._commands:
            command = self._commands.pop(0)
            try:
                verb, within = _parse(command)
            except (ValueError, RecursionError) as error:
                self._to_host += line("failed", why=f"invalid command: {error}", hint="send one JSON object per line")
                continue
            os.write(self._worker_in, command + b"\n")
            self._wait_for(verb, within)


def _parse(command: bytes) -> Tuple[str, float]:
    """Return a command's name, and for how many seconds it may send no output.

    Raises:
        ValueError: it is invalid.
    """
    fields = json.loads(command.decode())
    if not isinstance(fields, dict) or not isinstance(fields.get("do"), str):
        raise ValueError("do is missing")
    within = fields.get("within")
    if isinstance(within, bool) or not isinstance(within, (int, float)) or not 0 < within < 1e6:
        raise ValueError("within (seconds) is missing or invalid")
    if len(command) > _MAX_COMMAND:
        raise ValueError("too long")
    return fields["do"], float(within)
