"""A board's environment in a folder: ``bin`` for PATH, ``lib`` for PYTHONPATH. No environment variable is needed else.

    board = install(tmp_path / "x5", "x5")
    env = {**os.environ, **board.env()}

It stands alone, so it works over a real sshd: ``lib`` holds a copy of this package (``fakeboard``) beside the runtime's
modules, and the tools in ``bin`` find it by its absolute path. What the chip is and what goes wrong is in
``lib/fakeboard/board.json``, read at each call: ``board.set(fail="hang")`` changes it while the board is in use.

Its Python is the one that called install(); numpy and onnxruntime must be importable there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.board.artifact import MARCHES

HERE = Path(__file__).parent
RUNTIMES = {"x3": "hobot_dnn", "x5": "hobot_dnn", "s100": "hbm_runtime"}
_SHIMS = {
    "hobot_dnn": ("hobot_dnn/pyeasy_dnn.py", "pyeasy_dnn"),
    "hobot_dnn_rdkx5": ("hobot_dnn_rdkx5/pyeasy_dnn.py", "pyeasy_dnn"),
    "hbm_runtime": ("hbm_runtime/__init__.py", "hbm_runtime"),
}
TOOLS = ("hrt_model_exec", "hrut_somstatus")


@dataclass(frozen=True)
class Board:
    """A fake board. Its latencies are made up: ``latency_ms`` a frame, 2 unless set."""

    name: str
    march: str
    bin: Path
    lib: Path

    def env(self) -> dict[str, str]:
        """Return PATH and PYTHONPATH, the board's own in front of this process's."""
        python = [str(self.lib), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(python)}

    def set(self, latency_ms: float = 2.0, fail: str | None = None) -> None:
        """Set the made-up latency and the fault.

        ``fail`` is hang (the BPU never answers), crash (SIGSEGV), infer (the task fails), contradict (perf's numbers do
        not go together), new (model_info has a line that nobody knows) or None.
        """
        said = {"board": self.name, "march": self.march, "latency_ms": latency_ms, "fail": fail}
        (self.lib / "fakeboard" / "board.json").write_text(json.dumps(said))


def install(folder: Path, name: str, runtimes: Sequence[str] | None = None, tools: Sequence[str] = TOOLS) -> Board:
    """Make a board of ``x3``, ``x5`` or ``s100``; without pytest, to use it from a shell.

    ``runtimes`` are the Python modules that it has: its usual one when left out, none for ().
    """
    board = Board(name, MARCHES[name], folder / "bin", folder / "lib")
    board.bin.mkdir(parents=True)
    board.lib.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "fixtures.py")
    shutil.copytree(HERE, board.lib / "fakeboard", ignore=ignored)
    for runtime in (RUNTIMES[name],) if runtimes is None else runtimes:
        place, module = _SHIMS[runtime]
        (board.lib / place).parent.mkdir(exist_ok=True)
        (board.lib / place).parent.joinpath("__init__.py").touch()
        (board.lib / place).write_text(f"from fakeboard.{module} import *\n")
    for tool in tools:
        script = board.bin / tool
        python = f"PYTHONPATH={shlex.quote(str(board.lib))} exec {shlex.quote(sys.executable)} -P"
        script.write_text(f'#!/bin/sh\n{python} -m fakeboard.{tool} "$@"\n')
        script.chmod(0o755)
    board.set()
    return board


_OURS = ("fakeboard", *_SHIMS)


@pytest.fixture
def fake_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function like install() without its folder: this process is then on that board."""

    def forget() -> None:
        for module in [m for m in sys.modules if m.split(".")[0] in _OURS]:
            del sys.modules[module]

    def on(name: str, **has: Any) -> Board:
        board = install(tmp_path / f"board-{name}", name, **has)
        monkeypatch.setenv("PATH", board.env()["PATH"])
        monkeypatch.syspath_prepend(str(board.lib))
        forget()
        return board

    made: Callable[..., Board] = on
    yield made
    forget()
