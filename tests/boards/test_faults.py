"""Connection failures against real servers: the error has the board, the step and a fix."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError, ExitCode
from tests.boards.sshd import Home, free_port, keygen, needs_sshd, public, serve

pytestmark = needs_sshd


@contextmanager
def opened(address: str) -> Iterator[SshBoard]:
    with open_ssh(Address.parse(address), name=address, python="python3", root=PurePosixPath("bpudeploy")) as board:
        yield board


def fault(address: str) -> BoardError:
    with pytest.raises(BoardError) as caught, opened(address):
        pytest.fail("it connected")
    assert caught.value.board == address and address in str(caught.value)
    assert caught.value.hint and caught.value.exit_code == ExitCode.BOARD
    return caught.value


def test_connection_refused(home: Home) -> None:
    error = fault(f"127.0.0.1:{free_port()}")
    assert "connect: connection refused by 127.0.0.1, port" in str(error) and "sshd runs there" in str(error.hint)


def test_an_unknown_host_name(home: Home) -> None:
    assert "cannot resolve the host name 'no-such-board.invalid'" in str(fault("no-such-board.invalid"))


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Accept one connection, send ``answer``, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            kept.append(listener.accept()[0])
            kept[0].sendall(answer)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        for one in kept:
            one.close()


def test_a_server_that_never_answers(home: Home) -> None:
    home.config("Host *\n  ConnectTimeout 1\n")
    with listening(b"") as port:
        assert f"connect: no answer from 127.0.0.1, port {port} within 1 s" in str(fault(f"127.0.0.1:{port}"))


def test_a_server_that_is_not_ssh(home: Home) -> None:
    home.config("Host *\n  ConnectTimeout 2\n")
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "connect: " in str(fault(f"127.0.0.1:{port}"))


def test_a_key_that_the_board_does_not_have(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home, key=keygen(tmp_path / "other")) as server:
        home.know(server)
        error = fault(server.address)
    assert "connect: it rejected your keys for user" in str(error) and "ssh-copy-id" in str(error.hint)


def test_no_password_is_ever_offered(home: Home, tmp_path: Path) -> None:
    options = ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes", "LogLevel DEBUG"]
    with serve(tmp_path / "one", home, *options, key=keygen(tmp_path / "other")) as server:
        home.know(server)
        error = fault(server.address)
        log = (tmp_path / "one" / "log").read_text()
    assert "method publickey" in log and "method password" not in log and "method keyboard-interactive" not in log
    assert "no passwords" in str(error.hint)


def test_keys_with_a_passphrase_are_left_to_the_agent(home: Home, tmp_path: Path) -> None:
    (home.ssh / "id_ed25519").unlink()
    keygen(home.ssh / "id_ed25519", "-N", "secret")
    with serve(tmp_path / "one", home) as server:
        home.know(server)
        assert "ssh-add" in str(fault(server.address).hint)


def test_an_invalid_key_file(home: Home, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n")
    with serve(tmp_path / "one", home) as server:
        home.know(server)
        home.config(f"Host *\n  IdentityFile {tmp_path / 'key'}\n")
        assert "unusable SSH settings" in str(fault(server.address))


def test_an_unauthorized_user(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home) as server:
        home.know(server)
        assert "rejected your keys for user 'sunrise'" in str(fault(f"sunrise@{server.address}"))


def test_more_keys_than_the_board_will_try(home: Home, tmp_path: Path) -> None:
    files = [keygen(tmp_path / f"key{i}") for i in range(4)]
    with serve(tmp_path / "one", home, "MaxAuthTries 2") as server:
        home.know(server)
        home.config("Host *\n" + "".join(f"  IdentityFile {file}\n" for file in files))
        error = fault(server.address)
    assert "too many authentication failures" in str(error) and "IdentitiesOnly" in str(error.hint)


def test_an_unknown_host_key_shows_its_fingerprint(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home) as server:
        error = fault(server.address)
    assert "connect: its host key is unknown: the server offers ED25519 SHA256:" in str(
        error
    ) and "boards trust" in str(error.hint)


def test_a_changed_host_key_shows_both(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home) as server:
        (home.ssh / "known_hosts").write_text(f"\n{server.name} {public(keygen(tmp_path / 'before'))}\n")
        error = fault(server.address)
    assert "its host key has changed: expected ED25519 SHA256:" in str(
        error
    ) and "known_hosts:2), the server offers" in str(error)
    assert f"boards trust {server.address} --replace" in str(error.hint)


def test_another_kind_of_host_key_than_the_known_one_is_a_changed_key(home: Home, tmp_path: Path) -> None:
    rsa = tmp_path / "rsa"
    keygen(rsa, "-t", "rsa", "-b", "2048")
    with serve(tmp_path / "one", home) as server:
        (home.ssh / "known_hosts").write_text(f"{server.name} {public(rsa)}\n")
        error = fault(server.address)
    assert "its host key has changed: expected RSA SHA256:" in str(error) and "ED25519 SHA256:" in str(error)


# --- accounts that do not run commands, or say more than they were asked


def test_a_banner_is_ignored(home: Home, tmp_path: Path) -> None:
    banner = tmp_path / "banner"
    banner.write_text("Authorised users only.\n" * 20)
    with serve(tmp_path / "one", home, f"Banner {banner}", "PrintMotd yes") as server:
        home.know(server)
        with opened(server.address) as board:
            assert board.run(["echo", "x"], timeout=5, step="test").stdout == "x\n"


def test_a_start_file_that_prints(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home) as server:
        home.know(server)
        (server.board / ".bashrc").write_text("echo Welcome to RDK X5\n")
        error = fault(server.address)
    assert "login: its login shell prints 'Welcome to RDK X5'" in str(error) and ".bashrc" in str(error.hint)


SHELLS = {
    "nologin": ("ForceCommand /usr/sbin/nologin", "This account is currently not available."),
    "sftp only": ("ForceCommand internal-sftp", "sftp connections only"),
    "a menu": ("ForceCommand echo only this", "only this"),
    "rbash with an empty PATH": (
        'ForceCommand PATH=/no /bin/rbash -c "$SSH_ORIGINAL_COMMAND"',
        "sh: command not found",
    ),
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_restricted_shell(home: Home, tmp_path: Path, name: str) -> None:
    option, says = SHELLS[name]
    with serve(tmp_path / "one", home, option) as server:
        home.know(server)
        error = fault(server.address)
    assert "login: this account cannot run commands" in str(error) and says in str(error) and "chsh" in str(error.hint)


def test_a_server_that_opens_no_session(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home, "MaxSessions 0") as server:
        home.know(server)
        error = fault(server.address)
    assert "login: its server refuses to run a command" in str(error) and "MaxSessions" in str(error.hint)


def test_sftp_is_not_needed(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home, sftp=False) as server:
        home.know(server)
        with opened(server.address) as board:
            assert not board.offers_sftp(step="test")
            assert board.run_with_input(["cat"], [b"x" * 1000], timeout=10, step="test").stdout == b"x" * 1000


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_connection_lost_during_a_command(home: Home, tmp_path: Path, how: str) -> None:
    home.config("Host *\n  ServerAliveInterval 1\n")
    with serve(tmp_path / "one", home) as server:
        home.know(server)
        with opened(server.address) as board:
            number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
            timer = threading.Timer(0.5, server.signal_sessions, [number])
            timer.start()
            started = time.monotonic()
            with pytest.raises(BoardError, match="test: the connection was lost") as caught:
                board.run(["sleep", "60"], timeout=60, step="test")
            assert caught.value.hint and time.monotonic() - started < 20
            timer.join()
        server.signal_sessions(signal.SIGKILL)
