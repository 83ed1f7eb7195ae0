"""Boards over SSH, against real servers: commands, keys, and cleanup."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError, UsageError
from bpudeploy.testing import embedded_board
from tests.boards.sshd import needs_sshd, openssh_board


@pytest.fixture(scope="module", params=[pytest.param(openssh_board, marks=needs_sshd), embedded_board])
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with request.param(tmp_path_factory.mktemp("board")) as opened:
        yield opened


def run(board: SshBoard, *argv: str) -> tuple[int, str, str]:
    out = board.run(list(argv), timeout=10, step="test")
    return out.status, out.stdout, out.stderr


def test_a_command_returns_status_and_both_outputs(board: SshBoard) -> None:
    assert run(board, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert run(board, "sh", "-c", "kill -9 $$")[0] != 0
    assert run(board, "no such command")[0] == 127


ODD = ["", " ", "a b", "'", '"', "$(touch /tmp/owned)", "`id`", "; exit 9", "a\nb", "ü€", "-n", "*", "\\", "~", "#"]


@pytest.mark.parametrize("text", ODD)
def test_arguments_are_quoted(board: SshBoard, text: str) -> None:
    assert run(board, "printf", "%s|", text, "end") == (0, f"{text}|end|", "")


def test_a_process_exchanges_lines(board: SshBoard) -> None:
    with board.start(["sh", "-c", 'while read -r x; do echo "got $x"; done; echo end'], step="test") as process:
        for word in ("one", "it's $HOME", "ü"):
            process.send(word)
            assert process.receive(10) == f"got {word}"


def test_lines_arrive_as_they_are_written(board: SshBoard) -> None:
    with board.start(["sh", "-c", "echo one; sleep 0.5; echo two"], step="test") as process:
        assert process.receive(10) == "one"
        started = time.monotonic()
        assert process.receive(10) == "two" and time.monotonic() - started > 0.3
        assert process.receive(10) is None, "it ended well"


@pytest.mark.parametrize(
    ("script", "says"),
    [("echo the reason >&2; exit 7", "it exited with status 7: the reason"), ("kill -9 $$", "board")],
)
def test_a_failed_process_reports_why(board: SshBoard, script: str, says: str) -> None:
    with board.start(["sh", "-c", f"echo fine; {script}"], step="test") as process:
        assert process.receive(10) == "fine"
        with pytest.raises(BoardError, match=says):
            process.receive(10)
        process.send("nobody listens, and that is no error of its own")


def test_silence_times_out(board: SshBoard) -> None:
    with (
        board.start(["sleep", "60"], step="test") as process,
        pytest.raises(BoardError, match=r"no output for 0\.3 s"),
    ):
        process.receive(0.3)
    with pytest.raises(BoardError, match=r"did not finish within 0\.3 s"):
        board.run(["sleep", "60"], timeout=0.3, step="test")


def test_leaving_the_context_ends_the_process(board: SshBoard) -> None:
    script = "import sys, threading, os; print(os.getpid(), flush=True); sys.stdin.read(); os._exit(1)"
    with board.start([sys.executable, "-c", script], step="test") as process:
        pid = int(process.receive(10) or "")
    deadline = time.monotonic() + 5
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(pid)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_user_s_shell_settings_are_not_used(board: SshBoard) -> None:
    assert run(board, "sh", "-c", "echo $HOME")[1].strip() != str(Path.home())


# --- keys and addresses


def port_of(board: SshBoard) -> int:
    return int(board._connection.get_extra_info("peername")[1])


def connect(board: SshBoard, identity: Identity | None) -> None:
    with open_ssh(
        Address("127.0.0.1", None, port_of(board)), name="b", python="p", root=PurePosixPath("r"), identity=identity
    ):
        pytest.fail("it let us in")


def test_a_changed_host_key_is_refused(board: SshBoard, tmp_path: Path) -> None:
    import asyncssh

    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    client = tmp_path / "key"
    client.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with pytest.raises(BoardError, match="host key") as caught:
        connect(board, Identity(client, other))
    assert caught.value.hint


@pytest.mark.parametrize("known", [None, ""])
def test_an_unknown_host_key_is_refused(
    board: SshBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if known is not None:
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "known_hosts").write_text(known)
    with pytest.raises(BoardError, match="host key"):
        connect(board, None)


def test_an_unauthorized_key_is_rejected(board: SshBoard, tmp_path: Path) -> None:
    import asyncssh

    client = tmp_path / "key"
    client.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    client.chmod(0o600)
    host = board._connection.get_server_host_key()
    assert host is not None
    with pytest.raises(BoardError, match="board 'b', connect"):
        connect(board, Identity(client, host.export_public_key().decode().strip()))


def test_a_closed_port_is_a_board_error() -> None:
    with (
        pytest.raises(BoardError, match="board 'b', connect"),
        open_ssh(Address("127.0.0.1", "u", 1), name="b", python="p", root=PurePosixPath("r")),
    ):
        pytest.fail("it connected")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("rdk", Address("rdk")),
        ("sunrise@rdk-1:2222", Address("rdk-1", "sunrise", 2222)),
        ("u@[::1]:22", Address("::1", "u", 22)),
        ("192.168.1.10", Address("192.168.1.10")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@given(st.text(max_size=30))
def test_no_address_can_be_an_option_or_a_command(text: str) -> None:
    try:
        address = Address.parse(text)
    except UsageError:
        return
    assert not address.host.startswith("-") and not set(address.host) & set(" ;$`'\"\n|&")


# --- what is left behind


def processes(of: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(of) in text:
            found.append(text)
    return found


def gone(of: Path) -> bool:
    deadline = time.monotonic() + 10
    while processes(of) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes(of)


def test_the_board_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    with embedded_board(tmp_path) as opened:
        opened.run(["sh", "-c", f"(sleep 1000; : {tmp_path}) >/dev/null 2>&1 &"], timeout=5, step="test")
        assert processes(tmp_path)
    assert gone(tmp_path), processes(tmp_path)
    assert (tmp_path / "client_key").stat().st_mode & 0o077 == 0


def test_a_killed_run_leaves_no_board(tmp_path: Path) -> None:
    code = (
        "import time, sys; from pathlib import Path; from bpudeploy.testing import *\n"
        f"with embedded_board(Path({str(tmp_path)!r})): "
        "print('up', flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert gone(tmp_path), processes(tmp_path)


def test_two_runs_on_one_board_take_turns(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from bpudeploy.testing import *\n"
        f"with embedded_board(Path({str(tmp_path)!r})): "
        "print(time.time(), flush=True); time.sleep(0.5); print(time.time())"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    spans = sorted([float(x) for x in p.communicate()[0].split()] for p in both)
    assert spans[0][1] <= spans[1][0]
