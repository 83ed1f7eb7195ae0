"""The embedded board: a real SSH server on loopback with its own folder, running only while it is in use."""

from __future__ import annotations

import getpass
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.files import locked

_STOP_TIMEOUT_S = 20


@contextmanager
def open_embedded(directory: Path, *, name: str = "local", root: str = "board") -> Iterator[SshBoard]:
    """Start the server and connect to it; on exit, stop it and all processes that it started.

    Args:
        directory: for keys and the board's file system; created if missing, and kept.
        root: folder for releases, relative to ``directory``.

    Raises:
        BoardError: the server could not be started or reached.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    lock = locked(directory / "lock", wait=math.inf)  # two runs would disturb each other's measurements
    with lock, _server(directory, name) as (port, identity):
        address, releases = Address("127.0.0.1", getpass.getuser(), port), PurePosixPath(directory / root)
        with open_ssh(address, name=name, python=sys.executable, root=releases, identity=identity) as board:
            yield board


@contextmanager
def _server(directory: Path, name: str) -> Iterator[tuple[int, Identity]]:
    """Run the server process; yield its port and keys.

    The server process exits when its standard input closes, even if this process is killed.
    """
    identity, hint = _keys(directory), f"its log: {directory / 'server.log'}"
    command = [sys.executable, "-m", "bpudeploy.boards.embedded_server", str(directory)]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise BoardError("its server did not start", board=name, step="start", hint=hint)
        yield int(port), identity
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise BoardError("its server did not stop", board=name, step="stop", hint=hint) from error


def _keys(directory: Path) -> Identity:
    """Return the client's private key file and the host's public key, generated on first use."""
    import asyncssh

    for name in ("host_key", "client_key"):
        private, public = directory / name, directory / f"{name}.pub"
        if not private.exists() or not public.exists():
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"bpudeploy embedded board {name}")
            private.unlink(missing_ok=True)
            private.touch(mode=0o600, exist_ok=False)
            private.write_bytes(key.export_private_key())
            public.write_bytes(key.export_public_key())
    (directory / "authorized_keys").write_text((directory / "client_key.pub").read_text())
    return Identity(directory / "client_key", (directory / "host_key.pub").read_text().strip())
