"""~/.ssh/config, keys, agent and known_hosts are used as by OpenSSH, against real servers."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.errors import BoardError
from tests.boards.sshd import Home, Server, keygen, needs_sshd, public, serve
from tests.boards.test_boards import processes

pytestmark = needs_sshd


def said(address: str, *argv: str) -> str:
    where = Address.parse(address)
    with open_ssh(where, name=address, python="python3", root=PurePosixPath("bpudeploy")) as board:
        return board.run(argv or ["sh", "-c", "echo $HOME"], timeout=10, step="test").stdout.strip()


def test_an_alias_sets_host_port_user_key_and_known_hosts(home: Home, server: Server, tmp_path: Path) -> None:
    (home.ssh / "id_ed25519").rename(tmp_path / "elsewhere")
    (home.ssh / "keys").mkdir()
    (home.ssh / "keys" / "rdk").write_text(f"{server.name} {public(server.host_key)}\n")
    home.config(
        f"Host rdk\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile ~/.ssh/no-such-key\n  IdentityFile {tmp_path / 'elsewhere'}\n"
        "  UserKnownHostsFile ~/.ssh/no-such-file %d/.ssh/keys/%n\n"
    )
    assert said("rdk") == str(server.board)


def test_a_host_key_alias_is_the_name_in_known_hosts_without_a_port(home: Home, server: Server) -> None:
    home.config(f"Host rdk\n  HostName 127.0.0.1\n  Port {server.port}\n  HostKeyAlias desk-board\n")
    (home.ssh / "known_hosts").write_text(f"desk-board {public(server.host_key)}\n")
    assert said("rdk") == str(server.board)


def test_a_hashed_known_host_is_known(home: Home, server: Server) -> None:
    home.know(server)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", home.ssh / "known_hosts"], check=True, capture_output=True)
    assert "127.0.0.1" not in (home.ssh / "known_hosts").read_text()
    assert said(server.address) == str(server.board)


@pytest.mark.parametrize("line", ["not a line", "|1|broken|hash ssh-ed25519 AAAA", "host ssh-ed25519 AAAA", "@x y z"])
def test_a_malformed_line_of_known_hosts_is_skipped(home: Home, server: Server, line: str) -> None:
    (home.ssh / "known_hosts").write_text(f"{line}\n\n# a comment\n{server.name} {public(server.host_key)}\n")
    assert said(server.address) == str(server.board)


NOBODY = [
    "",
    "UserKnownHostsFile none\nGlobalKnownHostsFile none",
    "UserKnownHostsFile /dev/null",
    "StrictHostKeyChecking no",
]


@pytest.mark.parametrize("setting", NOBODY)
def test_an_unknown_server_is_always_refused(home: Home, server: Server, setting: str) -> None:
    home.config(f"Host *\n{setting}\n")
    with pytest.raises(BoardError, match="its host key is unknown: the server offers ED25519 SHA256:") as caught:
        said(server.address)
    assert caught.value.step == "connect" and f"boards trust {server.address}" in str(caught.value.hint)
    assert not (home.ssh / "known_hosts").exists()


def test_the_key_of_an_address_is_not_the_key_of_a_name(home: Home, server: Server) -> None:
    home.know(server)  # as [127.0.0.1]:port; boards share addresses, so a name is looked up as that name alone
    with pytest.raises(BoardError, match="host key is unknown"):
        said(f"localhost:{server.port}")


def test_a_revoked_key_is_refused(home: Home, server: Server) -> None:
    home.know(server)
    with (home.ssh / "known_hosts").open("a") as file:
        file.write(f"@revoked * {public(server.host_key)}\n")
    with pytest.raises(BoardError, match="revoked"):
        said(server.address)


def test_remotecommand_is_ignored(home: Home, server: Server) -> None:
    home.know(server)
    home.config("Host *\n  RequestTTY force\n  RemoteCommand tmux attach\n")
    assert said(server.address, "sh", "-c", "test -t 1 || echo plain") == "plain"


def test_a_key_with_a_passphrase_is_used_from_the_agent(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = keygen(tmp_path / "locked", "-N", "secret")
    (home.ssh / "id_ed25519").unlink()
    with serve(tmp_path / "one", home, key=locked) as server:
        home.know(server)
        home.config(f"Host *\n  IdentityFile {locked}\n")
        with pytest.raises(BoardError, match="rejected your keys") as caught:
            said(server.address)
        assert "ssh-add" in str(caught.value.hint)
        socket = tmp_path / "agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                assert agent.poll() is None
            ask = tmp_path / "ask"
            ask.write_text("#!/bin/sh\necho secret\n")
            ask.chmod(0o700)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            told = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(["ssh-add", "-q", str(locked)], check=True, env={**os.environ, **told})
            assert said(server.address) == str(server.board)
            home.config(f"Host *\n  IdentityFile {locked}\n  IdentitiesOnly yes\n")
            assert said(server.address) == str(server.board)
        finally:
            agent.terminate()
            agent.wait()


@pytest.mark.parametrize("line", ["Port many", "Match nonsense x", "IdentityFile"])
def test_a_wrong_config_is_named_with_its_line(home: Home, line: str) -> None:
    home.config(f"Host *\n  {line}\n")
    with pytest.raises(BoardError, match=r"invalid SSH settings: .*config line 2"):
        said("rdk-1")


RELAY = """\
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := there.recv(65536):
        os.write(1, data)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    there.sendall(data)
"""


def test_a_proxy_command_is_run_and_ends(home: Home, server: Server, tmp_path: Path) -> None:
    (tmp_path / "relay.py").write_text(RELAY)
    home.config(
        f"Host rdk\n  HostName 127.0.0.1\n  Port {server.port}\n"
        f"  ProxyCommand {sys.executable} {tmp_path}/relay.py %h %p\n"
    )
    home.know(server)
    assert said("rdk") == str(server.board)
    deadline = time.monotonic() + 5
    while (left := processes(tmp_path / "relay.py")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize("principal", ["127.0.0.1", "another"])
def test_a_host_certificate_is_accepted(home: Home, tmp_path: Path, principal: str) -> None:
    authority = keygen(tmp_path / "authority")
    (tmp_path / "one").mkdir()
    key = keygen(tmp_path / "one" / "host_key")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "board", "-h", "-n", principal, f"{key}.pub"]
    subprocess.run(sign, check=True)
    with serve(tmp_path / "one", home, f"HostCertificate {key}-cert.pub") as server:
        (home.ssh / "known_hosts").write_text(f"@cert-authority [127.0.0.1]:* {public(authority)}\n")
        if principal == "127.0.0.1":
            assert said(server.address) == str(server.board)
        else:
            with pytest.raises(BoardError, match="host key"):
                said(server.address)


def test_ten_thousand_known_hosts_are_read_quickly(home: Home, server: Server) -> None:
    key = public(home.ssh / "id_ed25519")
    home.know(server)
    with (home.ssh / "known_hosts").open("a") as file:
        file.write("".join(f"rdk-{i} {key}\n" for i in range(10_000)))
    started = time.monotonic()
    assert said(server.address) == str(server.board)
    assert time.monotonic() - started < 10


# --- jump hosts


@pytest.fixture
def behind(tmp_path: Path, home: Home) -> Iterator[tuple[Server, Server]]:
    """A bastion, and a board behind it with the alias `rdk`."""
    with serve(tmp_path / "bastion", home) as bastion, serve(tmp_path / "board", home) as board:
        home.know(bastion, board)
        home.config(
            f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n"
            f"Host rdk\n  HostName 127.0.0.1\n  Port {board.port}\n  ProxyJump bastion\n"
        )
        yield bastion, board


def test_a_board_behind_a_jump_host(behind: tuple[Server, Server]) -> None:
    bastion, board = behind
    assert said("rdk") == str(board.board)
    assert "direct-tcpip" in logged(bastion) or "Accepted publickey" in logged(bastion)


def test_two_jump_hosts_one_after_the_other(home: Home, behind: tuple[Server, Server], tmp_path: Path) -> None:
    bastion, board = behind
    with serve(tmp_path / "inner", home) as inner:
        home.know(bastion, board, inner)
        with (home.ssh / "config").open("a") as file:
            file.write(f"Host deep\n  HostName 127.0.0.1\n  Port {inner.port}\n  ProxyJump bastion,rdk\n")
        assert said("deep") == str(inner.board)
        assert "Accepted publickey" in logged(bastion) and "Accepted publickey" in logged(board)


def logged(server: Server) -> str:
    return (server.host_key.parent / "log").read_text()


def test_an_unknown_jump_host_is_refused_and_named(home: Home, behind: tuple[Server, Server]) -> None:
    _, board = behind
    home.know(board)
    with pytest.raises(
        BoardError, match=r"board 'rdk', connect: jump host 'bastion': its host key is unknown"
    ) as caught:
        said("rdk")
    assert "`bpudeploy boards trust bastion`" in str(caught.value.hint)


def test_a_jump_host_that_leads_to_itself_is_an_error_not_a_loop(home: Home) -> None:
    home.config("Host *\n  ProxyJump bastion\n")
    with pytest.raises(BoardError, match="ProxyJump leads back to 'bastion'"):
        said("rdk")


def test_nothing_behind_the_jump_host_is_an_error_of_the_board(home: Home, behind: tuple[Server, Server]) -> None:
    config = (home.ssh / "config").read_text()
    home.config(config.replace(f"Port {behind[1].port}", "Port 1"))
    with pytest.raises(BoardError, match=r"board 'rdk', connect: cannot connect to 127\.0\.0\.1, port 1"):
        said("rdk")
