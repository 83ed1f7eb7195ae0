"""A home folder with a key, and a real sshd that accepts it but is not in known_hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boards.sshd import Home, Server, make_home, serve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return make_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def server(tmp_path: Path, home: Home) -> Iterator[Server]:
    with serve(tmp_path / "one", home) as running:
        yield running
