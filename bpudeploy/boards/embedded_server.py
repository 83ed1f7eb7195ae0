"""Server process of the embedded board: serves SSH until its standard input closes, then ends all it started.

Run as ``python -m bpudeploy.boards.embedded_server DIRECTORY openssh|python``. Prints one JSON line with the port
when ready; exits with status 3 if this kind of server cannot run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_UNAVAILABLE = 3
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: adopt orphaned descendants, to be able to end them
_SIGTERM_ROUNDS = 25  # of 20 ms; then SIGKILL
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def main(directory: Path, kind: str) -> int:
    """Serve until standard input closes; returns the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    try:
        return _openssh(directory) if kind == "openssh" else asyncio.run(_python(directory))
    finally:
        _end_children()


def _ready(port: int) -> None:
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()


def _openssh(directory: Path) -> int:
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if sshd is None:
        return _UNAVAILABLE
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # for sshd's privilege separation
    port = _free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    config = directory / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {_quoted(directory / 'host_key')}\n"
        f"AuthorizedKeysFile {_quoted(directory / 'authorized_keys')}\nPidFile {_quoted(directory / 'sshd.pid')}\n"
        f"AllowUsers {user}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nX11Forwarding no\nAllowTcpForwarding no\n"
        "PrintMotd no\nSubsystem sftp internal-sftp\n"
        f"SetEnv {_quoted(Path(f'HOME={directory}'))}\n"  # do not source the user's ~/.bashrc
    )
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    for _ in range(100):
        if server.poll() is not None:
            return _UNAVAILABLE
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.05)
    else:
        return _UNAVAILABLE
    _ready(port)
    sys.stdin.buffer.read()
    return 0


def _quoted(path: Path) -> str:
    """Quote a path for sshd_config, which has no escapes within double quotes before 8.7."""
    return f'"{path}"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _python(directory: Path) -> int:
    import asyncssh

    async def handle(process: Any) -> None:
        await _serve_command(process, directory)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "authorized_keys"),
        process_factory=handle,
        sftp_factory=True,
        encoding=None,
        password_auth=False,
    )
    _ready(server.get_port())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    server.close()
    return 0


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
        children = _children(os.getpid())
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if attempt < _SIGTERM_ROUNDS else signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
