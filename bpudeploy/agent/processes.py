"""Child processes that end with their parent, and the vendor's command line tools."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import subprocess
from typing import Optional, Sequence

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: the child must not load anything between fork and exec
_VENDOR_TOOLS = "/usr/hobot/bin"
_TOOL_LIMIT_S = 10.0


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit if ``parent`` has already ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def find_tool(name: str) -> Optional[str]:
    """Return the path of a vendor tool, or None."""
    return shutil.which(name) or shutil.which(name, path=_VENDOR_TOOLS)


def run_child(
    argv: Sequence[str], timeout_s: float, *, stderr: int = subprocess.DEVNULL, folder: Optional[str] = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that is killed when this process ends; as ``subprocess.run``."""
    return subprocess.run(
        argv,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=timeout_s,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )


def tool_output(tool: str, *arguments: str) -> Optional[str]:
    """Return what a vendor tool prints; None if it is missing, fails or times out."""
    path = find_tool(tool)
    if path is None:
        return None
    try:
        done = run_child([path, *arguments], _TOOL_LIMIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
