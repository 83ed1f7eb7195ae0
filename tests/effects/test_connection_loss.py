"""A connection that is lost in the middle says why; an agent that is killed at any moment leaves nothing running."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.effects.connection_loss import open_diagnosed
from bpudeploy.errors import BoardError, ConnectionLost
from tests.boards.sshd import Home, Server, make_home, needs_sshd, serve
from tests.effects.releases import quiet, release
from tests.effects.test_bench import METHOD, measure, push
from tests.effects.test_bench import network as network
from tests.effects.test_bench_vendors import agents

pytestmark = needs_sshd


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    home: Home = make_home(tmp_path / "home", monkeypatch)
    with serve(tmp_path / "sshd", home) as up:
        home.know(up)
        yield up


@contextmanager
def opened(server: Server, tmp_path: Path) -> Iterator[SshBoard]:
    import sys

    root = PurePosixPath(tmp_path / "root")
    with open_ssh(Address.parse(server.address), name="b", python=sys.executable, root=root) as board:
        yield board


@dataclass
class Rebooted:
    """A board that says, from the second connection on, that it was started anew."""

    board: Board
    times: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.board, name)

    def run(self, argv: list[str], **how: Any) -> CommandOutput[str]:
        if self.times > 1 and "boot_id" in argv[-1]:
            return CommandOutput(0, "another-boot\n12.5\n", "")
        return self.board.run(argv, **how)


@pytest.mark.parametrize(
    ("rebooted", "says"), [(False, "was not rebooted, and answers again"), (True, "was rebooted, 1")]
)
def test_it_says_whether_it_was_the_board_or_the_network(
    server: Server, tmp_path: Path, rebooted: bool, says: str
) -> None:
    times = 0

    @contextmanager
    def opener() -> Iterator[Any]:
        nonlocal times
        times += 1
        with opened(server, tmp_path) as board:
            yield Rebooted(board, times if rebooted else 0)

    with pytest.raises(ConnectionLost, match=says) as caught, open_diagnosed(opener, patience_s=5) as board:
        threading.Timer(0.3, server.signal_sessions, [signal.SIGKILL]).start()
        board.run(["sleep", "20"], timeout=30, step="test")
    assert caught.value.hint and "not repeated" in caught.value.hint and caught.value.step == "test"


def test_a_board_that_is_gone_is_said_to_be(server: Server, tmp_path: Path) -> None:
    def gone() -> None:
        server.signal_sessions(signal.SIGKILL)
        os.kill(server.pid, signal.SIGKILL)

    with (
        pytest.raises(ConnectionLost, match="did not answer for 1 s after that"),
        open_diagnosed(lambda: opened(server, tmp_path), patience_s=1) as board,
    ):
        threading.Timer(0.3, gone).start()
        board.run(["sleep", "20"], timeout=30, step="test")


def processes(root: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(root).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


KILLS = int(os.environ.get("BPUDEPLOY_KILLS", "3"))


@pytest.mark.parametrize("seed", range(KILLS))
def test_an_agent_killed_at_any_moment_leaves_nothing_and_is_gone_on_with(
    server: Server, tmp_path: Path, network: tuple[bytes, Path, Any], seed: int
) -> None:
    """One of its processes, or the session, is killed with SIGKILL, at a random moment of a whole benchmark."""
    rng = random.Random(seed)
    made, root = release(tmp_path, network[0]), tmp_path / "root"
    method = METHOD.model_copy(update={"min_seconds": 1.5, "rounds": 6})
    with opened(server, tmp_path) as board:
        push(board, made, quiet)

    def kill() -> None:
        end = time.monotonic() + 10
        while not (running := processes(root / "blobs")) and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.5))
        victims = processes(root / "blobs") or running
        with suppress(ProcessLookupError):
            if rng.random() < 0.3:
                server.signal_sessions(signal.SIGKILL)
            else:
                os.kill(rng.choice(victims), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with suppress(BoardError), opened(server, tmp_path) as board:
        measure(board, [made], network[1], tmp_path, method)
    killer.join()
    deadline = time.monotonic() + 5
    while agents(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not agents(root) and not (root / "governors.json").exists()
    with opened(server, tmp_path) as board:
        (found,) = measure(board, [made], network[1], tmp_path, method)
    assert found.answers is not None and sum(found.answers.right) == 6
    assert not list(root.glob("agent-*")), "the next agent sweeps what was left"
