"""The supervisor: passes lines between the host and the worker, and ends the worker when either is gone or hangs.

It loads no runtime and waits for nothing but what it polls; should it hang all the same, an alarm ends it, and its end
ends the worker.
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

from .governors import heal
from .lines import CLOSING, line

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_BY_ITSELF = "the worker ended by itself"
_START_S = 60.0
_END_S = 5.0
_ALARM_S = 30
_MOST_COMMAND = 32768
"""Bytes of a command: less than a pipe holds, so handing one to an idle worker never blocks."""
_MOST_AHEAD = 1 << 20
"""Bytes that wait for a slow host, until the worker must wait too."""


class _Ended(Exception):
    """Why this agent ends now."""


def supervise(root: str, under: str, idle_s: float) -> int:
    """Serve the host on standard input and output; return the exit status. When it returns nothing of us is left."""
    for number in _SIGNALS:
        signal.signal(number, _told)
    signal.alarm(_ALARM_S)
    worker, why, status = None, None, 0
    folder = os.path.join(root, f"agent-{os.getpid()}.tmp")
    try:
        os.mkdir(folder)
        worker = _start(root, under, folder)
        _Relay(worker, idle_s).run()
    except (_Ended, OSError) as error:
        why = str(error)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(_ALARM_S)
        if worker is not None:
            status = _kill(worker)
        with suppress(OSError):
            heal(root, under)
        shutil.rmtree(folder, ignore_errors=True)
    if why is not None:
        how = f" ({_in_words(status)})" if why == _BY_ITSELF else ""
        sys.stderr.write(f"agent: {why}{how}\n")
    return 0 if why is None else 1


def _told(number: int, frame: Optional[FrameType]) -> None:
    raise _Ended(f"it was told to end ({signal.Signals(number).name})")


def _start(root: str, under: str, folder: str) -> subprocess.Popen[bytes]:
    own = [sys.executable, os.path.abspath(sys.argv[0]), "--root", root, "--under", under]
    return subprocess.Popen(
        [*own, "--worker", str(os.getpid())],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # one group with all that it starts
        env={**os.environ, "TMPDIR": folder},
    )


def _kill(worker: subprocess.Popen[bytes]) -> int:
    """Kill the worker and all that it started; return how it ended, which may have been by itself."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)  # before it is waited for: its number is still its own
    return worker.wait()


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name


class _Relay:
    """Bytes both ways, one command at a time, and until when the worker has to have answered.

    Args:
        idle_s: how long the host may ask for nothing.
    """

    def __init__(self, worker: subprocess.Popen[bytes], idle_s: float) -> None:
        assert worker.stdin is not None and worker.stdout is not None
        self._to, self._of = worker.stdin.fileno(), worker.stdout.fileno()
        self._idle_s = idle_s
        self._heard = b""  # of the host, no whole line yet
        self._commands: List[bytes] = []
        self._said = b""  # by the worker, no whole line yet
        self._out = bytearray()
        self._verb: Optional[str] = "start"  # what the worker is at; None: nothing
        self._within = _START_S
        self._deadline = time.monotonic() + _START_S
        self._over = False

    def run(self) -> None:
        """Return after the worker's last word to a ``bye``.

        Raises:
            _Ended: it ends in another way.
        """
        while not (self._over and not self._out):
            signal.alarm(_ALARM_S)
            ready = self._ready()
            if ready.get(1, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise _Ended("its output was closed")
            if ready.get(1, 0) & select.POLLOUT:
                # A pipe that is ready takes so much without blocking. For what else it may be there is the alarm.
                del self._out[: os.write(1, self._out[: select.PIPE_BUF])]
                if not self._out and self._verb not in (None, "end"):
                    self._deadline = time.monotonic() + self._within  # it spoke, and was heard: the limit is on silence
            if ready.get(self._of):
                self._hear_worker()
            if ready.get(0) and self._verb != "end":
                self._hear_host()
            self._next()
            if time.monotonic() > self._deadline:
                raise _Ended(self._late())

    def _ready(self) -> Dict[int, int]:
        poll = select.poll()
        poll.register(1, select.POLLOUT if self._out else 0)
        if not self._over and len(self._out) < _MOST_AHEAD:
            poll.register(self._of, select.POLLIN)
        if self._verb != "end":
            poll.register(0, select.POLLIN)
        left = self._deadline - time.monotonic()
        return dict(poll.poll(max(0.0, min(left + 0.001, _END_S)) * 1000))

    def _hear_host(self) -> None:
        got = os.read(0, 65536)
        if not got:
            raise _Ended("its input ended: the host is gone")
        *lines, self._heard = (self._heard + got).split(b"\n")
        self._commands += lines
        if len(self._heard) > _MOST_AHEAD:
            raise _Ended("what it is told has no lines")

    def _hear_worker(self) -> None:
        got = os.read(self._of, 65536)
        if not got:
            if self._verb != "end":
                raise _Ended(_BY_ITSELF)
            self._over = True
            self._deadline = time.monotonic() + _END_S
        *lines, self._said = (self._said + got).split(b"\n")
        for said in lines:
            self._out += said + b"\n"
            if said.startswith(CLOSING):
                ends = self._verb == "bye" and said.startswith(CLOSING[1])
                self._verb = "end" if ends else None
                self._deadline = time.monotonic() + (_END_S if ends else self._idle_s)

    def _next(self) -> None:
        """Hand on the next command, when the worker has closed the one before."""
        while self._verb is None and self._commands:
            command = self._commands.pop(0)
            try:
                verb, within = _parse(command)
            except (ValueError, RecursionError) as error:
                self._out += line("failed", why=f"this is no command: {error}", hint="one JSON object a line")
                continue
            os.write(self._to, command + b"\n")
            self._verb, self._within = verb, within
            self._deadline = time.monotonic() + within

    def _late(self) -> str:
        if self._verb is None:
            return f"nothing was asked for {self._idle_s:g} s"
        return f"{self._verb}: not a word in {self._within:g} s; the worker hung and was killed"


def _parse(command: bytes) -> Tuple[str, float]:
    """Return a command's verb, and for how many seconds it may be silent.

    Raises:
        ValueError: it is none.
    """
    said = json.loads(command.decode())
    if not isinstance(said, dict) or not isinstance(said.get("do"), str):
        raise ValueError("it has no verb (do)")
    within = said.get("within")
    if isinstance(within, bool) or not isinstance(within, (int, float)) or not 0 < within < 1e6:
        raise ValueError("it does not say within how many seconds")
    if len(command) > _MOST_COMMAND:
        raise ValueError("it is too long")
    return said["do"], float(within)
