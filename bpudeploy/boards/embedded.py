"""The embedded board: a real SSH server on loopback with its own folder, running only while it is in use."""

from __future__ import annotations

import getpass
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path, PurePosixPath

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.files import locked

_START_TIMEOUT_S = 20


class ServerKind(StrEnum):
    """SSH server implementation."""

    OPENSSH = "openssh"
    PYTHON = "python"


@contextmanager
def open_embedded(
    directory: Path, *, name: str = "local", root: str = "board", server: ServerKind | None = None
) -> Iterator[SshBoard]:
    """Start the server and connect to it; on exit, stop it and all processes that it started.

    Args:
        directory: for keys, configuration and the board's file system; created if missing, and kept.
        root: folder for releases, relative to ``directory``.
        server: by default OpenSSH's sshd if it is installed and accepts this user, else the Python server.

    Raises:
        BoardError: no server could be started or reached.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    lock = locked(directory / "lock", wait=math.inf)  # two runs would disturb each other's measurements
    with lock, _opened(directory, name, root, server) as board:
        yield board


@contextmanager
def _opened(directory: Path, name: str, root: str, server: ServerKind | None) -> Iterator[SshBoard]:
    client_key, host_key = _keys(directory)
    kinds = [server] if server else [ServerKind.OPENSSH, ServerKind.PYTHON]
    for kind in kinds:
        with ExitStack() as stack:
            port = stack.enter_context(_server(directory, kind, name))
            if port is None and kind is not kinds[-1]:
                continue
            if port is None:
                raise BoardError(f"the {kind} server did not start", board=name, step="start", hint=_log(directory))
            try:
                board = stack.enter_context(
                    open_ssh(
                        Address("127.0.0.1", getpass.getuser(), port),
                        name=name,
                        python=sys.executable,
                        root=PurePosixPath(directory / root),
                        identity=Identity(client_key, host_key),
                    )
                )
            except BoardError:
                if kind is kinds[-1]:
                    raise
                continue  # sshd rejects this user (locked account, nologin shell)
            yield board
            return


def _log(directory: Path) -> str:
    return f"its log: {directory / 'server.log'}"


@contextmanager
def _server(directory: Path, kind: ServerKind, name: str) -> Iterator[int | None]:
    """Run the server process; yield its port, or None if this kind of server cannot start.

    The server process exits when its standard input closes, even if this process is killed.
    """
    command = [sys.executable, "-m", "bpudeploy.boards.embedded_server", str(directory), kind.value]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield json.loads(line)["port"] if line.strip() else None
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_START_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise BoardError("its server did not stop", board=name, step="stop", hint=_log(directory)) from error


def _keys(directory: Path) -> tuple[Path, str]:
    """Return the client's private key file and the host's public key, generated on first use."""
    for key in ("host_key", "client_key"):
        if not (directory / key).exists() or not (directory / f"{key}.pub").exists():
            _generate(directory, key)
    (directory / "authorized_keys").write_text((directory / "client_key.pub").read_text())
    return directory / "client_key", (directory / "host_key.pub").read_text().strip()


def _generate(directory: Path, name: str) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519", comment=f"bpudeploy embedded board {name}")
    private = directory / name
    private.unlink(missing_ok=True)
    private.touch(mode=0o600, exist_ok=False)
    private.write_bytes(key.export_private_key())
    private.with_suffix(".pub").write_bytes(key.export_public_key())
