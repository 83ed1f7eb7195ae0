"""Server process of the embedded board: serves SSH until its standard input closes, then ends all it started.

Run as ``python -m bpudeploy.boards.embedded_server DIRECTORY``. Prints its port when ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: adopt orphaned descendants, to be able to end them
_SIGTERM_ROUNDS = 25  # of 20 ms; then SIGKILL


def main(directory: Path) -> None:
    """Serve until standard input closes."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    try:
        asyncio.run(_serve(directory))
    finally:
        _end_children()


async def _serve(directory: Path) -> None:
    import asyncssh

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "authorized_keys"),
        process_factory=functools.partial(_serve_command, directory=directory),
        sftp_factory=True,
        encoding=None,
        password_auth=False,
    )
    sys.stdout.write(f"{server.get_port()}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    server.close()


async def _serve_command(process: Any, directory: Path) -> None:
    """Run one command as sshd does: in a shell and a session of its own, with pipes to the channel."""
    import asyncssh

    if process.command is None:
        process.stderr.write(b"this board runs commands only\n")
        process.exit(1)
        return
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command,
        cwd=directory,
        env={**os.environ, "HOME": str(directory)},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    assert child.stdin and child.stdout and child.stderr
    feeding = asyncio.create_task(_feed(process.stdin, child))
    try:
        await asyncio.gather(_drain(child.stdout, process.stdout), _drain(child.stderr, process.stderr))
        status = await child.wait()
        process.exit(status if status >= 0 else 128 - status)
    except (asyncssh.Error, OSError):
        _end_group(child)
    finally:
        feeding.cancel()


async def _feed(source: Any, child: asyncio.subprocess.Process) -> None:
    """Forward input until the channel closes; a signal from the client terminates the command."""
    import asyncssh

    assert child.stdin
    try:
        while data := await source.read(65536):
            child.stdin.write(data)
            await child.stdin.drain()
        child.stdin.close()
    except (asyncssh.SignalReceived, asyncssh.BreakReceived):
        _end_group(child)
    except (asyncssh.Error, OSError):
        child.stdin.close()


async def _drain(source: asyncio.StreamReader, target: Any) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()


def _end_group(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)


def _end_children() -> None:
    """End every descendant, first with SIGTERM. Orphans are reparented to this process, so repeating finds all."""
    for attempt in range(100):
        children = _children()
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if attempt < _SIGTERM_ROUNDS else signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
