"""A board on loopback, optionally behind a proxy, for transfers."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from tests.boards.sshd import any_board


class Server:
    """An SSH server in the role of a board."""

    def __init__(self, folder: Path, board: SshBoard) -> None:
        self.folder, self.board = folder, board
        self.port = int(board._connection.get_extra_info("peername")[1])

    @contextmanager
    def reached(self, port: int | None = None, *, python: str = sys.executable) -> Iterator[SshBoard]:
        """Open a new connection, through ``port`` if given."""
        key = Identity(self.folder / "client_key", (self.folder / "host_key.pub").read_text().strip())
        where = Address("127.0.0.1", getpass.getuser(), port or self.port)
        with open_ssh(where, name="b", python=python, root=PurePosixPath("/"), identity=key) as board:
            yield board


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run OpenSSH's sshd if installed, otherwise the embedded server."""
    folder = tmp_path_factory.mktemp("transfer")
    with any_board(folder) as board:
        yield Server(folder, board)


@pytest.fixture
def board(server: Server) -> SshBoard:
    """Return the server's own connection."""
    return server.board
