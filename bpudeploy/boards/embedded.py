"""The embedded board: a real SSH server on loopback, in a folder of its own, for as long as it is used."""

from __future__ import annotations

import getpass
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path, PurePosixPath

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.files import locked

_START_TIMEOUT_S = 20


class ServerKind(StrEnum):
    """Which SSH server plays the board."""

    OPENSSH = "openssh"
    PYTHON = "python"


@contextmanager
def open_embedded(
    directory: Path, *, name: str = "local", root: str = "board", server: ServerKind | None = None
) -> Iterator[SshBoard]:
    """Start the server, connect to it, and stop it at the end with everything that it started.

    Args:
        directory: holds keys, configuration and the board's file system; made if absent, and kept.
        root: where releases go, relative to ``directory``.
        server: None takes OpenSSH's sshd if it is installed and lets us in, else the Python server.

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
        with _server(directory, kind, name) as port:
            if port is None and kind is not kinds[-1]:
                continue
            if port is None:
                raise BoardError(f"no {kind} server could be started", board=name, step="start", hint=_log(directory))
            opened = open_ssh(
                Address("127.0.0.1", getpass.getuser(), port),
                name=name,
                python=sys.executable,
                root=PurePosixPath(directory / root),
                identity=Identity(client_key, host_key),
            )
            try:
                board = opened.__enter__()
            except BoardError:
                if kind is kinds[-1]:
                    raise
                continue  # an sshd that will not let this user in (locked account, nologin shell)
            try:
                yield board
            finally:
                opened.__exit__(None, None, None)
            return


def _log(directory: Path) -> str:
    return f"its log: {directory / 'server.log'}"


@contextmanager
def _server(directory: Path, kind: ServerKind, name: str) -> Iterator[int | None]:
    """Run the supervisor; yields its port, or None when it could not start this kind of server.

    The supervisor ends when its standard input closes: also when this process is killed.
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
            raise BoardError("its server would not stop", board=name, step="stop", hint=_log(directory)) from error


def _keys(directory: Path) -> tuple[Path, str]:
    """Return the client's private key file and the host's public key, made on first use."""
    for key in ("host_key", "client_key"):
        if not (directory / key).exists() or not (directory / f"{key}.pub").exists():
            _generate(directory, key)
    (directory / "authorized_keys").write_text((directory / "client_key.pub").read_text())
    return directory / "client_key", (directory / "host_key.pub").read_text().strip()


def _generate(directory: Path, name: str) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519", comment=f"bpudeploy embedded board {name}")
    (directory / name).unlink(missing_ok=True)
    handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(key.export_private_key())
    (directory / f"{name}.pub").write_bytes(key.export_public_key())
