"""Transfer faults with a real sshd: a clear error, and the next send completes the file."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from benchmarks.proxy import Fault, Proxy
from benchmarks.transfer import edited
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.errors import BoardError
from bpudeploy.transfer import channel
from bpudeploy.transfer.receiver import SPAN
from bpudeploy.transfer.send import SendMethod, SendResult, send
from tests.boards.sshd import SSHD, needs_sshd
from tests.transfer.conftest import Server
from tests.transfer.test_send import OVERHEAD

SIZE = 4 * SPAN


def push(board: SshBoard, local: Path, remote: Path, *bases: Path) -> SendResult:
    return send(board, local, PurePosixPath(remote), bases=[PurePosixPath(b) for b in bases], step="push")


def settled(path: Path) -> int:
    """Return the size of a file once it no longer grows."""
    size = -1
    while (now := path.stat().st_size if path.exists() else 0) != size:
        size = now
        time.sleep(0.1)
    return size


@pytest.mark.parametrize("seed", range(20))
def test_after_a_cut_at_any_byte_the_next_send_adds_only_missing_bytes(
    server: Server, tmp_path: Path, seed: int
) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(SIZE))
    cut = random.Random(seed).randrange(SIZE)  # counted from the connection's first byte
    with (
        Proxy(server.port, fault=Fault(cut_after=cut)) as proxy,
        pytest.raises(BoardError, match=r"board 'b', (connect|login|push): ") as caught,
        server.reached(proxy.port) as board,
    ):
        push(board, local, remote)
    assert caught.value.hint
    there = settled(remote)
    with server.reached() as board:
        sent = push(board, local, remote)
    assert remote.read_bytes() == local.read_bytes()
    assert sent.reused_bytes == there and sent.wire_bytes <= SIZE - there + OVERHEAD


@pytest.mark.parametrize("seed", range(10))
def test_a_delta_completes_after_repeated_cuts(server: Server, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    old.write_bytes(rng.randbytes(SIZE))
    local.write_bytes(edited(old.read_bytes(), 20, 20_000, seed=20))
    for _ in range(5):
        with (
            Proxy(server.port, fault=Fault(cut_after=rng.randrange(5_000, 500_000))) as proxy,
            pytest.raises(BoardError),
            server.reached(proxy.port) as board,
        ):
            push(board, local, remote, old)
            proxy.cut()
            board.run(["true"], timeout=5, step="push")  # the transfer finished before the cut
        settled(remote)
    with server.reached() as board:
        push(board, local, remote, old)
    assert remote.read_bytes() == local.read_bytes()


def test_a_stall_is_detected(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_IDLE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(channel, "_MIN_READ_RATE", 1e9)
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(2 * SIZE))
    with (
        Proxy(server.port, fault=Fault(stall_after=SIZE)) as proxy,
        pytest.raises(BoardError, match=r"board 'b', push: the transfer stalled: no data sent for 1\.0\d* s"),
        server.reached(proxy.port) as board,
    ):
        push(board, local, remote)
    there = settled(remote)
    with server.reached() as board:
        assert push(board, local, remote).reused_bytes == there > 0
    assert remote.read_bytes() == local.read_bytes()


@pytest.mark.parametrize("at", [3_000, 100_000, SIZE // 2])
def test_a_bit_flipped_on_the_wire_ends_the_connection(server: Server, tmp_path: Path, at: int) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(SIZE))
    with (
        Proxy(server.port, fault=Fault(flip_at=at)) as proxy,
        pytest.raises(BoardError, match=r"board 'b', (connect|login|push): "),
        server.reached(proxy.port) as board,
    ):
        push(board, local, remote)
    with server.reached() as board:
        push(board, local, remote)
    assert remote.read_bytes() == local.read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a 3 MB file system that the test may enlarge."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_and_received_bytes_are_kept(server: Server, tmp_path: Path, small_disk: Path) -> None:
    local, remote = tmp_path / "l", small_disk / "r"
    local.write_bytes(os.urandom(SIZE))
    with server.reached() as board:
        with pytest.raises(BoardError, match=r"board 'b', push: .*No space left on device") as caught:
            push(board, local, remote)
        assert "free some space" in str(caught.value.hint)
        there = settled(remote)
        subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
        assert push(board, local, remote).reused_bytes == there > 2 * SPAN
    assert remote.read_bytes() == local.read_bytes()


def test_a_missing_folder_or_a_file_in_its_place(server: Server, tmp_path: Path) -> None:
    local = tmp_path / "l"
    local.write_bytes(os.urandom(SIZE))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with server.reached() as board:
        for remote in (tmp_path / "none" / "r", tmp_path / "file" / "r", tmp_path / "folder"):
            with pytest.raises(BoardError, match="board 'b', push: ") as caught:
                push(board, local, remote)
            assert str(remote) in caught.value.message and caught.value.hint


def test_a_killed_receiver(server: Server, tmp_path: Path) -> None:
    """For example by the out-of-memory killer: the connection survives, the command does not."""
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(8 * SIZE))

    def kill(done: int, _total: int) -> None:
        if done > 5 * SIZE:
            for argv in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if str(remote).encode() in argv.read_bytes():
                        os.kill(int(argv.parent.name), signal.SIGKILL)

    with server.reached() as board:
        with pytest.raises(BoardError, match="board 'b', push: "):
            send(board, local, PurePosixPath(remote), step="push", progress=kill)
        there = settled(remote)
        assert push(board, local, remote).reused_bytes == there > 0
    assert remote.read_bytes() == local.read_bytes()


# --- restricted servers


@contextmanager
def sshd(server: Server, folder: Path, *lines: str, without: str = "no such line") -> Iterator[int]:
    """Run another sshd with the same keys and some changed settings."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = (server.folder / "sshd_config").read_text().splitlines()
    changed = [one for one in kept if not one.startswith(("Port ", "PidFile ", without))]
    (folder / "sshd_config").write_text("\n".join([f"Port {port}", "PidFile none", *lines, *changed]) + "\n")
    assert SSHD
    process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


@needs_sshd
def test_a_server_without_sftp_works(server: Server, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(SIZE))
    with sshd(server, tmp_path, without="Subsystem") as port, server.reached(port) as board:
        assert push(board, local, remote).method is SendMethod.WHOLE
    assert remote.read_bytes() == local.read_bytes()


@needs_sshd
@pytest.mark.parametrize("command", ["internal-sftp", "/usr/sbin/nologin", "/bin/false", "/bin/true"])
def test_an_account_that_runs_no_commands_is_refused(server: Server, tmp_path: Path, command: str) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(b"x")
    with (
        sshd(server, tmp_path, f"ForceCommand {command}") as port,
        pytest.raises(BoardError, match=r"board 'b', (login|push): ") as caught,
        server.reached(port) as board,
    ):
        push(board, local, remote)
    assert "shell" in str(caught.value.hint) and not remote.exists()


@needs_sshd
@pytest.mark.skipif(shutil.which("rbash") is None, reason="rbash is not installed")
def test_a_restricted_shell_with_sh_works(server: Server, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(SIZE))
    shell = 'ForceCommand exec rbash -c "$SSH_ORIGINAL_COMMAND"'
    with sshd(server, tmp_path, shell) as port, server.reached(port, python="python3") as board:
        push(board, local, remote)  # rbash refuses a command with a slash
    assert remote.read_bytes() == local.read_bytes()


@pytest.mark.parametrize("python", ["no-python-on-this-board", "/bin/false", "/bin/true", "/"])
def test_a_board_without_python_is_refused(server: Server, tmp_path: Path, python: str) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(1000))
    refused = pytest.raises(BoardError, match=rf"board 'b', push: no Python 3\.8 or newer: '{python}' failed \(.+\)")
    with server.reached(python=python) as board, refused as caught:
        push(board, local, remote)
    assert "install Python 3.8 or newer" in str(caught.value.hint) and "board.python" in str(caught.value.hint)
    assert not remote.exists()
