"""One board a module: OpenSSH's sshd where installed, else the embedded one. Each test has a root of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.trust import trust
from bpudeploy.signing import SigningKey
from tests.boards.sshd import any_board
from tests.effects.releases import a_key, its_root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b")


@pytest.fixture(scope="module")
def board(home: Path) -> Iterator[SshBoard]:
    with any_board(home) as opened:
        yield opened


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return a_key(tmp_path_factory.mktemp("k"))


@pytest.fixture
def root(board: SshBoard, tmp_path: Path, key: SigningKey) -> Iterator[Path]:
    """Give the board an empty root of this test's own, with an odd name; it trusts ``key``."""
    with its_root(board, tmp_path / "it's $HOME; root") as root:
        trust(board, key.public)
        yield root
