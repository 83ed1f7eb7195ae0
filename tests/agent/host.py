"""A host that talks to the agent over pipes, and a fake board's files."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

Line = dict[str, Any]
PYTHON = os.environ.get("BPUDEPLOY_BOARD_PYTHON", sys.executable)
"""The agent's Python; set it to a Python 3.8 with numpy and onnxruntime to test with what boards have."""
CLOSING = ("hello", "done", "failed")


@dataclass(frozen=True)
class FakeBoard:
    """A folder with /sys, /proc, ROOT and the agent."""

    folder: Path
    agent: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def under(self) -> Path:
        return self.folder / "tree"

    @property
    def record(self) -> Path:
        return self.root / "governors.json"

    def file(self, path: str) -> Path:
        return self.under / path.lstrip("/")

    def write(self, path: str, text: str) -> Path:
        file = self.file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
        return file

    def governors(self) -> dict[str, str]:
        return {path: self.file(path).read_text().strip() for path in GOVERNORS}

    def start(self, *, idle: float = 60.0, environment: Mapping[str, str] | None = None) -> Agent:
        return Agent(self, idle, environment or {})

    def ready(self, *, idle: float = 60.0, environment: Mapping[str, str] | None = None) -> Agent:
        """Start the agent and read its hello."""
        agent = self.start(idle=idle, environment=environment)
        agent.receive()
        return agent


POLICY = "/sys/devices/system/cpu/cpufreq/policy"
BOOST = "/sys/devices/system/cpu/cpufreq/boost"
DEVFREQ = "/sys/devices/system/bpu/bpu0/devfreq/28108000.bpu"
GOVERNORS = (BOOST, f"{POLICY}0/scaling_governor", f"{POLICY}4/scaling_governor", f"{DEVFREQ}/governor")
BEFORE = dict(zip(GOVERNORS, ("0", "schedutil", "ondemand", "simple_ondemand"), strict=True))
FAST = dict(zip(GOVERNORS, ("1", "performance", "performance", "performance"), strict=True))


def furnish(board: FakeBoard) -> None:
    """Write the files of an S100: two CPU policies, a BPU and some sensors."""
    board.root.mkdir()
    for policy, governor in ("0", "schedutil"), ("4", "ondemand"):
        board.write(f"{POLICY}{policy}/scaling_governor", governor)
        board.write(f"{POLICY}{policy}/scaling_available_governors", "ondemand performance schedutil")
        board.write(f"{POLICY}{policy}/scaling_cur_freq", "1125000")
        board.write(f"{POLICY}{policy}/cpuinfo_max_freq", "1500000")
    board.write(BOOST, "0")
    board.write(f"{DEVFREQ}/governor", "simple_ondemand")
    board.write(f"{DEVFREQ}/available_governors", "simple_ondemand performance")
    board.write(f"{DEVFREQ}/cur_freq", "500000000")
    board.write(f"{DEVFREQ}/available_frequencies", "500000000 1000000000")
    board.write("/sys/devices/system/bpu/bpu0/ratio", "17")
    board.write("/sys/class/thermal/thermal_zone0/type", "pvt_cmn")
    board.write("/sys/class/thermal/thermal_zone0/temp", "38565")
    board.write("/sys/class/hwmon/hwmon0/temp1_input", "41000")
    board.write("/sys/class/hwmon/hwmon0/temp2_input", "-500")
    board.write("/sys/class/hwmon/hwmon0/temp2_label", "BPU")
    board.write("/proc/device-tree/model", "a board of tests")
    board.write("/proc/sys/kernel/random/boot_id", "this-boot")


@dataclass
class Agent:
    """A running agent; its processes are killed on exit from the context."""

    board: FakeBoard
    idle: float
    environment: Mapping[str, str]
    _received: bytes = b""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        argv = [PYTHON, str(self.board.agent), "--root", str(self.board.root)]
        self.process = subprocess.Popen(
            [*argv, "--under", str(self.board.under), "--idle", str(self.idle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.board.folder / "stderr").open("w"),
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
            bufsize=0,
        )

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in left(self.board.folder):
            kill(pid)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def send(self, do: str, within: float = 20.0, **fields: object) -> None:
        """Send a command without waiting."""
        self.write(json.dumps({"do": do, "within": within, **fields}).encode() + b"\n")

    def write(self, said: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(said)

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def receive(self, timeout: float = 20.0) -> list[Line]:
        """Return the lines up to the closing one, or to the end of the agent's output."""
        assert self.process.stdout is not None
        lines: list[Line] = []
        until = time.monotonic() + timeout
        while not lines or lines[-1]["is"] not in CLOSING:
            while b"\n" not in self._received:
                assert select.select([self.process.stdout], [], [], until - time.monotonic())[0], f"silence: {lines}"
                got = os.read(self.process.stdout.fileno(), 65536)
                if not got:
                    return lines
                self._received += got
            line, _, self._received = self._received.partition(b"\n")
            lines.append(json.loads(line, parse_constant=lambda name: f"{name} is no number"))
        return lines

    def ask(self, do: str, within: float = 20.0, **fields: object) -> list[Line]:
        """Send a command and return its lines."""
        self.send(do, within, **fields)
        return self.receive(within + 5)

    def done(self, do: str, within: float = 20.0, **fields: object) -> list[Line]:
        """As ask; the command must succeed."""
        lines = self.ask(do, within, **fields)
        assert lines and lines[-1]["is"] == "done", lines
        return lines

    def failure(self, do: str, within: float = 20.0, **fields: object) -> str:
        """As ask; the command must fail. Return the reason."""
        *_, line = self.ask(do, within, **fields)
        assert line["is"] == "failed" and line["hint"], line
        return str(line["why"])

    def bye(self) -> list[Line]:
        """Send bye and wait for the exit."""
        lines = self.done("bye")
        assert self.process.wait(5) == 0, self.stderr()
        return lines

    def load(self, model: Path, samples: Path, **other: object) -> list[Line]:
        fields: dict[str, Any] = {"subject": "s", "sha256": None, "runtime": "onnxruntime", "threads": 1} | other
        return self.ask("load", model=str(model), samples=str(samples), **fields)

    def worker(self) -> int:
        """Wait for the worker process and return its PID."""
        return wait_for(lambda: next((pid for pid in left(self.board.folder) if b"--worker" in argv_of(pid)), 0))

    def guard(self) -> int:
        return wait_for(lambda: next((pid for pid in left(self.board.folder) if b"bpudeploy-guard" in argv_of(pid)), 0))

    def stderr(self) -> str:
        return (self.board.folder / "stderr").read_text()


def round_of(**other: object) -> dict[str, Any]:
    """Return the fields of a short round."""
    usual = {"warmup": 1, "min_frames": 5, "min_seconds": 0.0, "max_seconds": 5.0, "streams": 1, "first": 0}
    return {**usual, **other}


def wait_for(look: Callable[[], int], seconds: float = 5.0) -> int:
    """Poll ``look`` and return its result, or 0 after a timeout."""
    until = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def argv_of(pid: int) -> bytes:
    """Return a process's arguments; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def left(folder: Path) -> list[int]:
    """Return the processes with a path in ``folder`` among their arguments: the agent and its children."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if os.fsencode(folder) in argv_of(pid)]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
